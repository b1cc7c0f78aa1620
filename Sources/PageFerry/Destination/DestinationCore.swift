import Glibc
import PageCore
import PageEngine
import PageTransport
import PageWire
import Userfault

/// The receiving half of a destination's shard: faults and frames go into the engine, whose wishes `memory` fulfils.
struct DestinationCore: ~Copyable, TransportHandler {
    static let mailboxToken: UInt64 = 1
    /// Tokens from here on are userfaultfds, by number.
    static let firstFaultToken: UInt64 = 16

    var engine: DestinationEngine
    var memory: DestinationMemory
    let mailbox: Mailbox<DestinationOrder>
    let notify: @Sendable (DestinationNotice) -> Void
    let relay: MachineStateRelay?
    /// How to find the source again, and for how long to try.
    var finder: SourceFinder
    let pauseNanoseconds: UInt64
    /// For how long only to tell it that every page is in.
    let farewellNanoseconds: UInt64
    let method: PushMethod
    private var buffers: ControlBuffers
    private var events = UserfaultEventBatch()
    /// Pieces of the return path on their way to the source; bounded by the relay.
    private(set) var machineState: [[UInt8]] = []
    private var machineStateHasEnded = false
    /// Set when the session is to end; a nil reason inside means completed.
    private(set) var ending: SessionError??
    /// Set when the link is gone and another is looked for.
    var lost: SessionError?
    var pausedNanoseconds: UInt64?
    private(set) var pauseCount = 0
    /// What the last search met.
    var obstacle: SessionError?
    var search: SourceSearch?
    var schedule = SearchSchedule(nowNanoseconds: 0)
    /// The link that takes the place of the lost one.
    var restored: DestinationLink?
    /// Whether the VMM has loaded its machine state: from then on the source may have committed the switch.
    var hasLoaded = false
    var guestStoppedNanoseconds: UInt64?
    var isCommitted = false
    var resumedNanoseconds: UInt64?
    /// When a thread of the guest last waited for a page.
    private(set) var lastFaultNanoseconds: UInt64 = 0
    private(set) var lastPageNanoseconds: UInt64?
    /// Whether the push adapts to the link.
    private let isPaced: Bool
    /// Adapts the push to the link; nil where the credit is fixed, or nothing is pushed, or pages are fetched.
    var pacing: PushPacing?
    /// What the guest needed so far, when that is recorded.
    var trace: TraceRecorder?
    /// Whether the source has been told that every page is in: from then on it may hang up.
    var hasReported = false
    /// Regions that are taken out, and wait for what is being received there.
    var leaving: [RegionIndex] = []

    init(
        engine: consuming DestinationEngine, memory: consuming DestinationMemory, laneCount: Int, finder: SourceFinder,
        configuration: DestinationSession.Configuration, mailbox: Mailbox<DestinationOrder>,
        notify: @escaping @Sendable (DestinationNotice) -> Void, relay: MachineStateRelay?
    ) {
        self.finder = finder
        pauseNanoseconds = configuration.pauseNanoseconds
        farewellNanoseconds = configuration.farewellNanoseconds
        method = configuration.push
        isPaced = configuration.creditBytes == nil
        self.engine = engine
        self.memory = memory
        self.mailbox = mailbox
        self.notify = notify
        self.relay = relay
        self.memory.mayReportAllResident = relay == nil
        buffers = ControlBuffers(laneCount: laneCount)
        prepare(laneCount: laneCount)
    }

    /// Makes room for the control frames of these lanes, and learns the link anew.
    mutating func prepare(laneCount: Int) {
        buffers = ControlBuffers(laneCount: laneCount)
        guard isPaced, !memory.isFetching else {
            pacing = nil
            return
        }
        let fresh = PushPacing(leastBytes: engine.leastCreditBytes, isSecure: !finder.configuration.security.isPlain)
        engine.creditWindowBytes = fresh.windowBytes
        pacing = fresh
    }

    /// Whether lanes are there, and the session goes on.
    var isLinked: Bool { ending == nil && lost == nil }

    /// Whether a link that is lost can be found again: a source has come so far that it keeps the session.
    private var mayResume: Bool { pauseNanoseconds > 0 && (relay == nil || hasLoaded) }

    /// The link is gone. The session looks for another once the source may have given its guest up, and ends otherwise.
    mutating func lose(_ reason: SessionError) {
        guard ending == nil, lost == nil else { return }
        guard mayResume else { return end(hasReported ? nil : reason) }
        lost = reason
        pausedNanoseconds = MonotonicClock.nowNanoseconds()
        pauseCount += 1
        notify(.paused(reason))
    }

    mutating func end(_ reason: SessionError?) {
        if ending == nil { ending = .some(reason) }
    }

    /// Everything is settled and visible: takes the userfaultfds out of the guest's way.
    mutating func releaseGuest() {
        lastPageNanoseconds = MonotonicClock.nowNanoseconds()
        memory.unregisterAll()
        readLastEvents()
        noticeMemoryFailure()
        notify(.allResident)
    }

    /// Who gave memory up while it was being unregistered waits until that has been read, and nobody reads it later. None comes
    /// anew from memory that is not registered.
    private mutating func readLastEvents() {
        for number in 0..<memory.userfaultCount { readLastEvents(number) }
    }

    mutating func readLastEvents(_ number: Int) {
        let deadline = MonotonicClock.nowNanoseconds() + 1_000_000_000
        while memory.hasUnreadChanges(number), ending == nil, MonotonicClock.nowNanoseconds() < deadline { readFaults(number) }
    }

    /// Whether the VMM is still loading its machine state, as far as is known: page after page is demanded then, and
    /// pushed content would only be in the way.
    var isLoading: Bool {
        guard relay != nil, resumedNanoseconds == nil, let stopped = guestStoppedNanoseconds else { return false }
        return MonotonicClock.nowNanoseconds() - stopped < Self.loadingNanoseconds
    }

    private static var loadingNanoseconds: UInt64 { 300_000_000 }

    // MARK: Orders and faults

    mutating func readable(_ token: UInt64) {
        if token == Self.mailboxToken {
            takeOrders()
        } else {
            readFaults(Int(token - Self.firstFaultToken))
        }
    }

    mutating func tried(_ token: UInt64) -> Bool { readFaults(Int(token - Self.firstFaultToken)) }

    private mutating func takeOrders() {
        for order in mailbox.takeAll() {
            switch order {
            case .machineState(let bytes): machineState.append(bytes)
            case .machineStateEnd: machineStateHasEnded = true
            case .loaded:
                hasLoaded = true
                memory.enqueue(FrameHeader(.loaded))
            case .resumed:
                resumedNanoseconds = MonotonicClock.nowNanoseconds()
                memory.enqueue(FrameHeader(.resumed))
                memory.mayReportAllResident = true
            case .restored(let link):
                search = nil
                if lost == nil || ending != nil { link.close() } else { restored = link }
            case .notFound(let error): searchEnded(error)
            case .recover(let address): turn(to: SourceWay(address: address), "\(address)")
            case .adopt(let sockets): turn(to: SourceWay(address: finder.way.address, sockets: sockets), "the sockets that were given")
            case .remove(let region): take(out: region)
            case .end(let reason):
                // The last page may have come since whoever says so looked: a process that had all it needed has lost nothing.
                if reason == .processEnded, engine.isComplete, !memory.hasParked { continue }
                end(reason)
            }
        }
    }

    /// Looks for the source another way from now on.
    private mutating func turn(to way: SourceWay, _ name: String) {
        finder.way = way
        obstacle = nil
        // A link that works is left for the new one, by the same way back.
        if mayResume { lose(.linkLost("left for \(name) as told")) }
        schedule.hurry(nowNanoseconds: MonotonicClock.nowNanoseconds())
    }

    /// Reads everything that the userfaultfds have.
    ///
    /// - Returns: whether there was anything.
    mutating func readAllFaults() -> Bool {
        var hadAny = false
        for number in 0..<memory.userfaultCount where readFaults(number) { hadAny = true }
        return hadAny
    }

    /// Reads everything a userfaultfd has.
    ///
    /// - Returns: whether there was anything.
    @discardableResult
    mutating func readFaults(_ number: Int) -> Bool {
        var hadAny = false
        while memory.readEvents(number, into: &events) {
            hadAny = true
            let now = MonotonicClock.nowNanoseconds()
            lastFaultNanoseconds = now
            for index in 0..<events.count {
                handle(events[index], now)
            }
            // A read brings all there is, as far as there is room.
            if events.count < UserfaultEventBatch.capacity { break }
        }
        noticeMemoryFailure()
        return hadAny
    }

    private mutating func handle(_ event: UserfaultEvent, _ now: UInt64) {
        switch event {
        case .pageFault(let address, _):
            guard let (region, page) = memory.locate(address) else { return }
            memory.ledger.begin(sessionPage: engine.layout.sessionPage(region, page), nowNanoseconds: now)
            engine.fault(region, page, &memory)
        case .remove(let start, let end), .unmap(let start, let end):
            for region in 0..<RegionIndex(engine.layout.count) {
                for piece in 0..<memory.pieceCount(region) {
                    guard let range = memory.pages(of: region, piece: piece, from: start, to: end) else { continue }
                    memory.dropParked(range)
                    engine.removed(range, &memory)
                }
            }
        case .remap:
            // Not asked for at hand-off; a VMM that moves its memory anyway loses the session, not the data.
            end(.memory("the VMM moved its guest memory during paging, which is not supported"))
        case .fork(let descriptor):
            // What a child sees of pages that are missing is not served, as if its fork had not been told.
            close(descriptor)
        case .unknown(let code):
            end(.memory("the kernel reported a userfaultfd event of the unknown kind \(code); this kernel is newer than this build"))
        }
    }

    /// Does what memory refused to do before.
    mutating func retryParked() {
        memory.retryParked()
        noticeMemoryFailure()
    }

    mutating func noticeMemoryFailure() {
        if let failure = memory.failure { end(failure) }
    }

    // MARK: Frames

    mutating func place(_ header: FrameHeader, lane: LaneIndex) throws(FrameError) -> PayloadTarget {
        switch header.kind {
        case .pages where memory.isFetching:
            throw .malformedPayload(kind: header.kind)
        case .pages:
            // A slab still holds pages the kernel refused: they go first.
            if memory.isSlabInUse(Int(lane.rawValue)) { emptySlab(lane) }
            do throws(EngineViolation) {
                return memory.target(try engine.place(header, lane: Int(lane.rawValue)), lane)
            } catch {
                end(.violation(error))
                throw .rangeOutOfBounds
            }
        case .failure, .machineState, .regionKeys:
            return buffers.target(lane)
        default:
            throw .malformedPayload(kind: header.kind)
        }
    }

    /// Waits until the pages parked in a lane's slab are in: microseconds after the events in front of them were read.
    private mutating func emptySlab(_ lane: LaneIndex) {
        let deadline = MonotonicClock.nowNanoseconds() + 1_000_000_000
        while memory.isSlabInUse(Int(lane.rawValue)), ending == nil {
            _ = readAllFaults()
            retryParked()
            if MonotonicClock.nowNanoseconds() > deadline {
                end(.memory("the kernel refused to fill guest memory for a second; the VMM changes its mappings without end"))
            }
        }
    }

    mutating func arrived(_ header: FrameHeader, lane: LaneIndex) {
        do throws(EngineViolation) {
            if memory.isFetching { return try arrivedFetching(header, lane) }
            switch header.kind {
            case .pages:
                // Without a payload nothing was placed: doing it now says what is wrong with the frame.
                if header.payloadBytes == 0 { _ = try engine.place(header, lane: Int(lane.rawValue)) }
                engine.arrived(header, lane: Int(lane.rawValue), &memory)
                recordNeed(header)
            case .zeroPages: try engine.zero(header.range, &memory)
            case .allSent: try engine.ended(lane: Int(lane.rawValue))
            default: control(header, lane)
            }
        } catch {
            end(.violation(error))
        }
        noticeMemoryFailure()
    }

    /// Pages have come because the guest needed them, or their neighbours.
    mutating func recordNeed(_ header: FrameHeader) {
        guard trace != nil, header.reason != .push else { return }
        trace!.record(engine.layout.sessionPages(header.range))
    }

    /// A source with RDMA announces, and sends no page.
    private mutating func arrivedFetching(_ header: FrameHeader, _ lane: LaneIndex) throws(EngineViolation) {
        switch header.kind {
        case .pages, .allSent: end(.unexpectedFrame(header.kind))
        case .regionKeys, .regionKeysEnd, .zeroPages, .scanned:
            try announced(header, header.kind == .regionKeys ? buffers.copy(lane, byteCount: header.payloadBytes) : [])
        default: control(header, lane)
        }
        noticeMemoryFailure()
    }

    private mutating func control(_ header: FrameHeader, _ lane: LaneIndex) {
        switch header.kind {
        case .machineState:
            guard let relay else { return end(.unexpectedFrame(header.kind)) }
            if !relay.deliver(buffers.copy(lane, byteCount: header.payloadBytes)) { end(.machineStateTooLarge) }
        case .machineStateEnd:
            relay?.deliverEnd()
        case .guestStopped:
            // Told again on every new link, as is the commit.
            if guestStoppedNanoseconds == nil { notify(.guestStopped) }
            guestStoppedNanoseconds = guestStoppedNanoseconds ?? MonotonicClock.nowNanoseconds()
            memory.isSourceFinal = true
        case .commit:
            if !isCommitted { notify(.committed) }
            isCommitted = true
        case .farewell:
            end(hasReported ? nil : .unexpectedFrame(.farewell))
        case .ping:
            memory.enqueue(FrameHeader(.pong, argument: header.argument))
        case .pong:
            pacing?.answered(header.argument, nowNanoseconds: MonotonicClock.nowNanoseconds())
        case .failure:
            end(.peerFailed(Failure(header: header, payload: buffers.copy(lane, byteCount: header.payloadBytes))))
        default:
            end(.unexpectedFrame(header.kind))
        }
    }

    mutating func sent(_ token: UInt64, lane: LaneIndex) {}

    mutating func closed(_ lane: LaneIndex, _ reason: LaneClosure) {
        // The source hangs up; its farewell may be on its way on the urgent lane still.
        if hasReported, lane != .urgent { return }
        let error = SessionError(closure: reason, lane: lane)
        if case .linkLost = error { lose(error) } else { end(error) }
        // The session does not go on: what the lanes were in the middle of is not here.
        if ending != nil { loseReceptions(lane) }
    }

    private mutating func loseReceptions(_ lane: LaneIndex) {
        if memory.isFetching { loseFetches() } else { engine.laneLost(lane: Int(lane.rawValue), &memory) }
    }

    /// Only what follows the commit is resumed, and the machine state was across before it.
    mutating func forgetReturnPath() {
        for piece in machineState { relay?.accepted(bytes: piece.count) }
        machineState.removeAll()
        machineStateHasEnded = false
    }

    /// The next piece of the return path is on its way.
    mutating func machineStateSent() {
        let piece = machineState.removeFirst()
        relay?.accepted(bytes: piece.count)
    }

    /// Whether the end of the return path is due now; answers true once.
    mutating func takeMachineStateEnd() -> Bool {
        guard machineStateHasEnded, machineState.isEmpty else { return false }
        machineStateHasEnded = false
        return true
    }
}
