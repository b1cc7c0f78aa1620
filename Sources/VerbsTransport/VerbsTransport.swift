import Glibc
import PageCore
import PageTransport
import PageWire
import Uring
import Verbs

/// Frames over messages of reliable connected queue pairs, and one-sided access beside them: lane 0 for control, the next
/// for demanded pages, the others for bulk.
///
/// Made on any thread, then used and ended by the one that polls first. Completion queues are polled while spinning;
/// to sleep, their channels, the connection managers' and the watched descriptors all wait in one io_uring.
public struct VerbsTransport: ~Copyable, PageTransport {
    private let lanes: ContiguousArray<VerbsConnection>
    public let laneCount: Int
    private var ring: Ring
    private var watches: DescriptorWatches
    /// The lanes' own descriptors.
    private var channels: DescriptorWatches
    private var completions: CompletionBuffer
    private let configuration: VerbsConfiguration
    /// The ring no longer answers: nothing can be awaited.
    private var isBroken = false
    public private(set) var didSpinInVain = false

    /// The most descriptors watched at a time.
    public static let mostWatches = 32

    private enum Tag {
        static let watch: UInt8 = 1
        static let channel: UInt8 = 2
        static let housekeeping: UInt64 = 3 << 56
    }

    /// - Parameter lanes: 1...16 open connections, the control lane's first; owned by the transport from now on.
    public init(
        lanes: [VerbsConnection], configuration: VerbsConfiguration = VerbsConfiguration()
    ) throws(UringError) {
        precondition(!lanes.isEmpty && lanes.count <= 16, "a transport has 1...16 lanes")
        ring = try Ring(entries: 128, completionEntries: 512)
        watches = DescriptorWatches(capacity: Self.mostWatches, tag: Tag.watch, housekeepingToken: Tag.housekeeping)
        channels = DescriptorWatches(capacity: 2 * lanes.count, tag: Tag.channel, housekeepingToken: Tag.housekeeping)
        completions = CompletionBuffer(capacity: 64)
        self.configuration = configuration
        laneCount = lanes.count
        for (number, lane) in lanes.enumerated() {
            lane.index = LaneIndex(UInt8(number))
            lane.assembler = FrameAssembler(lane: lane.index)
            channels.watch(descriptor: lane.completionDescriptor, token: UInt64(number) << 1)
            channels.watch(descriptor: lane.eventDescriptor, token: UInt64(number) << 1 | 1)
        }
        self.lanes = ContiguousArray(lanes)
    }

    deinit {
        for lane in lanes { lane.end(.endOfStream) }
    }

    private func lane(_ lane: LaneIndex) -> VerbsConnection { lanes[Int(lane.rawValue)] }

    private func isOpen(_ lane: VerbsConnection) -> Bool { if case .open = lane.state { true } else { false } }

    // MARK: Submitting

    // SAFETY: here and below: payloads pass through to the lane's queue, whose owner keeps them until `sent` or `closed`.
    public mutating func submit(_ header: FrameHeader, payload: UnsafeRawBufferPointer, token: UInt64, lane: LaneIndex) -> Bool {
        let lane = self.lane(lane)
        return isOpen(lane) && (unsafe lane.queue.queue(header, payload: payload, token: token))
    }

    public mutating func submit(_ header: FrameHeader, copying payload: UnsafeRawBufferPointer?, lane: LaneIndex) -> Bool {
        let lane = self.lane(lane)
        return isOpen(lane) && (unsafe lane.queue.queue(header, copying: payload))
    }

    public func freeSlots(_ lane: LaneIndex) -> Int {
        let lane = self.lane(lane)
        return isOpen(lane) ? lane.queue.freeSlots : 0
    }

    public func pendingBytes(_ lane: LaneIndex) -> Int { self.lane(lane).queue.pendingBytes }

    /// Messages are short as they are, and pages travel beside them.
    public mutating func limitBursts(toBytes bytes: Int?) {}

    public func freeOneSided(_ lane: LaneIndex) -> Int { self.lane(lane).freeOneSided }

    public mutating func fetch(
        _ byteCount: Int, from remote: RemoteMemory, into local: LocalMemory, token: UInt64, lane: LaneIndex
    ) -> Bool {
        self.lane(lane).list(
            .read(
                from: remote.address, key: remote.key, into: local.address, key: local.key, lengthBytes: byteCount,
                token: WorkToken(.fetch, token).rawValue),
            usesPeerSlot: false)
    }

    public mutating func write(
        _ byteCount: Int, from local: LocalMemory, to remote: RemoteMemory, immediate: UInt32, token: UInt64, lane: LaneIndex
    ) -> Bool {
        self.lane(lane).list(
            .write(
                from: local.address, key: local.key, to: remote.address, key: remote.key, lengthBytes: byteCount,
                immediate: immediate, token: WorkToken(.write, token).rawValue),
            usesPeerSlot: true)
    }

    public mutating func flush() {
        for lane in lanes { lane.pump() }
    }

    public mutating func flush(_ lane: LaneIndex) { self.lane(lane).pump() }

    public mutating func glance<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler, isFull: Bool) -> Bool {
        var hasNews = false
        for lane in lanes where (isFull || lane.oneSided > 0) && lane.progress(&handler) { hasNews = true }
        return hasNews
    }

    public mutating func watch(descriptor: Int32, token: UInt64) { watches.watch(descriptor: descriptor, token: token) }

    public mutating func watchEagerly(descriptor: Int32, token: UInt64) {
        watches.watch(descriptor: descriptor, token: token, isEager: true)
    }

    public mutating func unwatch(token: UInt64) { watches.unwatch(token: token, &ring) }

    // MARK: Polling

    public mutating func poll<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler, wait: WaitPolicy) {
        didSpinInVain = false
        var hasNews = settle(&handler)
        flush()
        hasNews = progress(&handler) || hasNews
        do throws(UringError) {
            try watches.prepare(&ring)
            try channels.prepare(&ring)
            if hasNews || wait.timeoutNanoseconds == 0 {
                // News come in bursts: the ring is asked at some cost only when there is nothing else to do.
                _ = try look(&handler, isThorough: !hasNews)
                if watches.firstEager({ handler.tried($0) }) { hasNews = true }
                finishTurn(&handler)
                return
            }
            if try look(&handler, isThorough: false) {
                finishTurn(&handler)
                return
            }
            try waitForNews(&handler, wait)
        } catch {
            isBroken = true
            for lane in lanes { lane.end(.failed(errno: error.errorNumber)) }
        }
        finishTurn(&handler)
    }

    /// Frames that went into messages are free. What was consumed makes room for more: that goes with the next turn.
    private mutating func finishTurn<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler) {
        for lane in lanes where lane.hasUnreleasedFrames { lane.release(&handler) }
        settle(&handler)
    }

    private mutating func progress<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler) -> Bool {
        var hasNews = false
        for lane in lanes where lane.progress(&handler) { hasNews = true }
        return hasNews
    }

    /// Spins, then sleeps, until something happens or the time is over.
    private mutating func waitForNews<Handler: TransportHandler & ~Copyable>(
        _ handler: inout Handler, _ wait: WaitPolicy
    ) throws(UringError) {
        let start = MonotonicClock.nowNanoseconds()
        let spin = min(wait.spinNanoseconds, wait.timeoutNanoseconds)
        if spin > 0 {
            var turn = 0
            while true {
                if try spinTurn(turn, &handler) { return }
                turn &+= 1
                if MonotonicClock.nowNanoseconds() - start >= spin { break }
                Ring.relax()
            }
            didSpinInVain = true
            if spin == wait.timeoutNanoseconds { return }
        }
        try watches.prepareForSleep(&ring)
        for lane in lanes where isOpen(lane) {
            do throws(VerbsError) { try lane.completions!.arm() } catch { lane.end(.failed(errno: EIO)) }
        }
        // What came before the events were asked for makes none.
        if progress(&handler) || settle(&handler) { return }
        let rest = wait.timeoutNanoseconds == .max ? .max : wait.timeoutNanoseconds - spin
        try ring.submitAndWait(minimum: 1, timeoutNanoseconds: rest)
        if take(&handler) { _ = progress(&handler) }
    }

    /// Between two looks at the lanes that await nothing, and at eager watches while an answer is awaited.
    private static let turnsBetweenLooks = 8

    /// One look around: at lanes that await an answer always, at the others and at system calls' expense less often.
    private mutating func spinTurn<Handler: TransportHandler & ~Copyable>(
        _ turn: Int, _ handler: inout Handler
    ) throws(UringError) -> Bool {
        var awaitsAnswer = false
        let isFullLook = turn % Self.turnsBetweenLooks == 0
        for lane in lanes {
            let isAwaited = lane.oneSided > 0
            awaitsAnswer = awaitsAnswer || isAwaited
            if isAwaited || isFullLook, lane.progress(&handler) { return true }
        }
        if !awaitsAnswer || isFullLook {
            if watches.firstEager({ handler.tried($0) }) { return true }
        }
        return try look(&handler, isThorough: false)
    }

    /// Looks for what waits in the ring.
    ///
    /// - Parameter isThorough: also when it takes a system call to know.
    private mutating func look<Handler: TransportHandler & ~Copyable>(
        _ handler: inout Handler, isThorough: Bool
    ) throws(UringError) -> Bool {
        guard isThorough || ring.preparedCount > 0 || ring.hasWork else { return false }
        try ring.submitAndCollect()
        let didTake = take(&handler)
        if didTake { _ = progress(&handler) }
        return didTake
    }

    private mutating func take<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler) -> Bool {
        ring.take(into: &completions)
        for number in 0..<completions.count {
            let completion = completions[number]
            switch UInt8(truncatingIfNeeded: completion.token >> 56) {
            case Tag.watch:
                if let token = watches.completed(completion) { handler.readable(token) }
            case Tag.channel:
                guard let token = channels.completed(completion) else { continue }
                let lane = lanes[Int(token >> 1)]
                if token & 1 == 0 { lane.completions!.takeEvents() } else { lane.takeConnectionEvents() }
            default: break
            }
        }
        return completions.count > 0
    }

    /// Tells of the lanes that have become closed.
    ///
    /// - Returns: whether there were any.
    @discardableResult
    private mutating func settle<Handler: TransportHandler & ~Copyable>(_ handler: inout Handler) -> Bool {
        var hasNews = false
        for lane in lanes {
            guard let reason = lane.settle(isForced: isBroken) else { continue }
            hasNews = true
            handler.closed(lane.index, reason)
        }
        return hasNews
    }

    // MARK: The end

    /// How long the device may take to let go of memory.
    private static var endNanoseconds: UInt64 { 2_000_000_000 }

    public mutating func close() {
        var handler = Closing()
        let deadline = MonotonicClock.nowNanoseconds() + configuration.closeTimeoutNanoseconds
        // A message is safe with the peer once its completion is here.
        while lanes.contains(where: { isOpen($0) && (!$0.queue.isDrained || $0.sendTail > $0.sendHead) }),
            MonotonicClock.nowNanoseconds() < deadline
        {
            poll(&handler, wait: WaitPolicy(timeoutNanoseconds: 10_000_000))
        }
        abandon()
    }

    public mutating func abandon() {
        var handler = Closing()
        for lane in lanes { lane.end(.endOfStream) }
        let end = MonotonicClock.nowNanoseconds() + Self.endNanoseconds
        while lanes.contains(where: { if case .closed = $0.state { false } else { true } }), MonotonicClock.nowNanoseconds() < end {
            poll(&handler, wait: WaitPolicy(timeoutNanoseconds: 1_000_000))
        }
        for lane in lanes { _ = lane.settle(isForced: true) }
    }
}

/// Takes what still comes while a transport closes, and drops it.
private struct Closing: TransportHandler {
    mutating func place(_ header: FrameHeader, lane: LaneIndex) throws(FrameError) -> PayloadTarget { .discard }
    mutating func arrived(_ header: FrameHeader, lane: LaneIndex) {}
    mutating func sent(_ token: UInt64, lane: LaneIndex) {}
    mutating func readable(_ token: UInt64) {}
    mutating func closed(_ lane: LaneIndex, _ reason: LaneClosure) {}
}
