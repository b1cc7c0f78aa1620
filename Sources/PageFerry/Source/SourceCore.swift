import PageCore
import PageEngine
import PageTransport
import PageWire
import Synchronization
import Verbs

/// The receiving half of a source's shard: what comes from the destination goes into the engine, the relay, the notices.
struct SourceCore: ~Copyable, TransportHandler {
    static let mailboxToken: UInt64 = 1
    /// Control frames waiting for room on the urgent lane. Bounded by the protocol: a handful a session.
    private static let outboxLength = 64
    private static let mostGrants = 256
    /// Of lent pages; a memory lends fewer.
    private static let mostReturned = 256

    /// A range to be written to the destination's memory.
    struct Grant: Sendable {
        var range: PageRange
        var target: WriteTarget
        var immediate: UInt32
    }

    var engine: SourceEngine
    let mailbox: Mailbox<SourceOrder>
    let notify: @Sendable (SourceNotice) -> Void
    let relay: MachineStateRelay?
    /// Reached by the destination's next connections when the link is lost.
    let port: SourcePort
    /// How long to wait for them.
    let pauseNanoseconds: UInt64
    /// The destination reads the memory by itself: what it has is not known here.
    private(set) var isExposed: Bool
    /// Writes the destination has asked for; it grants no more than these at a time.
    var grants = BoundedQueue<Grant>(capacity: SourceCore.mostGrants)
    /// Tokens of lent pages that nobody references any more, until the shard gives them back to its memory.
    var returned = BoundedQueue<UInt64>(capacity: SourceCore.mostReturned)
    private var buffers: ControlBuffers
    private(set) var outbox: BoundedQueue<FrameHeader>
    /// Machine state on its way to the destination; bounded by the relay.
    private(set) var machineState: [[UInt8]] = []
    private var machineStateHasEnded = false
    /// Set when the session is to end; a nil reason inside means completed.
    private(set) var ending: SessionError??
    /// Set when the link is gone and the session waits for another.
    private(set) var lost: SessionError?
    private(set) var pausedNanoseconds: UInt64?
    private(set) var pauseCount = 0
    /// The link that takes the place of the present one.
    private(set) var restored: SourceLink?
    private(set) var guestStoppedNanoseconds: UInt64?
    private(set) var resumedNanoseconds: UInt64?
    private(set) var lastPageNanoseconds: UInt64?
    private(set) var isCommitted = false
    private var hasLoaded = false
    /// When a thread at the destination last asked for a page.
    private(set) var lastRequestNanoseconds: UInt64 = 0

    init(
        engine: consuming SourceEngine, laneCount: Int, port: SourcePort, pauseNanoseconds: UInt64,
        notify: @escaping @Sendable (SourceNotice) -> Void, relay: MachineStateRelay?, isExposed: Bool
    ) {
        self.isExposed = isExposed
        self.engine = engine
        self.port = port
        self.pauseNanoseconds = pauseNanoseconds
        mailbox = port.orders
        self.notify = notify
        self.relay = relay
        buffers = ControlBuffers(laneCount: laneCount)
        outbox = BoundedQueue(capacity: Self.outboxLength)
    }

    mutating func end(_ reason: SessionError?) {
        if ending == nil { ending = .some(reason) }
    }

    /// Whether lanes are there, and the session goes on.
    var isLinked: Bool { ending == nil && lost == nil && restored == nil }

    /// The link is gone. The session waits for another where the destination may come back, and ends otherwise.
    mutating func lose(_ reason: SessionError) {
        guard ending == nil, lost == nil else { return }
        guard pauseNanoseconds > 0, port.isResumable else { return end(reason) }
        lost = reason
        pausedNanoseconds = MonotonicClock.nowNanoseconds()
        pauseCount += 1
        notify(.paused(reason))
    }

    /// Takes the link that the destination has brought, and forgets what was on its way on the one before.
    mutating func takeRestored() -> SourceLink? {
        guard let link = restored.take() else { return nil }
        engine.resume(resident: link.resident.pages)
        buffers = ControlBuffers(laneCount: link.lanes.count)
        isExposed = link.lanes.verbs != nil
        while outbox.popFirst() != nil {}
        while grants.popFirst() != nil {}
        while returned.popFirst() != nil {}
        // Only what follows the commit is resumed, and the machine state was across before it.
        for piece in machineState { relay?.accepted(bytes: piece.count) }
        machineState.removeAll()
        machineStateHasEnded = false
        if guestStoppedNanoseconds != nil { enqueue(FrameHeader(.guestStopped)) }
        if isCommitted { enqueue(FrameHeader(.commit)) }
        lost = nil
        pausedNanoseconds = nil
        notify(.restored)
        return link
    }

    /// Goes on from what another daemon has left: the memory is final, and a machine committed, before the destination's first
    /// word is read, which may be that it has every page.
    mutating func takeOver(resident: borrowing PageBitmap, isMachine: Bool) {
        guestStopped()
        if isMachine { commit() }
        engine.resume(resident: resident)
    }

    // MARK: Orders

    private mutating func guestStopped() {
        guard guestStoppedNanoseconds == nil else { return }
        guestStoppedNanoseconds = MonotonicClock.nowNanoseconds()
        engine.start()
        enqueue(FrameHeader(.guestStopped))
    }

    private mutating func commit() {
        guard !isCommitted else { return }
        isCommitted = true
        port.isCommitted.store(true, ordering: .releasing)
        enqueue(FrameHeader(.commit))
    }

    mutating func readable(_ token: UInt64) {
        for order in mailbox.takeAll() {
            switch order {
            case .guestStopped:
                guestStopped()
            case .machineState(let bytes):
                machineState.append(bytes)
            case .machineStateEnd:
                machineStateHasEnded = true
            case .commit:
                if ending == nil { commit() }
            case .restored(let link):
                // The destination has given the link before up, whether that was noticed here or not.
                restored?.close()
                restored = link
            case .end(let reason):
                end(reason)
            case .memoryLost(let reason):
                if lost != nil || !engine.isAllSent { end(reason) }
            }
        }
    }

    private mutating func enqueue(_ header: FrameHeader) {
        if !outbox.append(header) { end(.violation(.creditOverflow)) }
    }

    /// The next control frame is on its way.
    mutating func outboxSent() { outbox.popFirst() }

    /// The next piece of machine state is on its way.
    mutating func machineStateSent() {
        let piece = machineState.removeFirst()
        relay?.accepted(bytes: piece.count)
    }

    /// Whether the end of the machine state is due now; answers true once.
    mutating func takeMachineStateEnd() -> Bool {
        guard machineStateHasEnded, machineState.isEmpty else { return false }
        machineStateHasEnded = false
        return true
    }

    // MARK: Frames

    mutating func place(_ header: FrameHeader, lane: LaneIndex) throws(FrameError) -> PayloadTarget {
        switch header.kind {
        case .failure, .machineState, .grant: return buffers.target(lane)
        default: throw .malformedPayload(kind: header.kind)
        }
    }

    mutating func arrived(_ header: FrameHeader, lane: LaneIndex) {
        do throws(EngineViolation) {
            if isExposed { return try arrivedExposed(header, lane) }
            switch header.kind {
            case .request:
                guard header.argument <= UInt64(RegionLayout.mostBytes) else { throw .outsideRegions(header.range) }
                lastRequestNanoseconds = MonotonicClock.nowNanoseconds()
                try engine.request(window: header.range, demanded: PageIndex(header.argument), stride: header.stride)
            case .prefetch:
                try engine.prefetch(header.range, stride: header.stride)
            case .credit:
                try engine.credit(bytes: header.argument)
            case .removed:
                try engine.removed(header.range)
            default:
                control(header, lane)
            }
        } catch {
            end(.violation(error))
        }
    }

    /// A destination that reads by itself asks for nothing but writes.
    private mutating func arrivedExposed(_ header: FrameHeader, _ lane: LaneIndex) throws(EngineViolation) {
        switch header.kind {
        case .grant: try grant(header, lane)
        case .request, .prefetch, .credit, .removed: end(.unexpectedFrame(header.kind))
        default: control(header, lane)
        }
    }

    private mutating func grant(_ header: FrameHeader, _ lane: LaneIndex) throws(EngineViolation) {
        guard Int(header.region) < engine.layout.count, engine.layout.contains(header.range), header.pageCount > 0 else {
            throw .outsideRegions(header.range)
        }
        let target: WriteTarget
        do throws(FrameError) {
            target = try WriteTarget(decoding: buffers.copy(lane, byteCount: header.payloadBytes))
        } catch {
            return end(.damagedFrame(error))
        }
        guard grants.append(Grant(range: header.range, target: target, immediate: header.sequence)) else { throw .creditOverflow }
    }

    private mutating func control(_ header: FrameHeader, _ lane: LaneIndex) {
        switch header.kind {
        case .machineState:
            guard let relay else { return end(.unexpectedFrame(header.kind)) }
            if !relay.deliver(buffers.copy(lane, byteCount: header.payloadBytes)) { end(.machineStateTooLarge) }
        case .machineStateEnd:
            relay?.deliverEnd()
        case .loaded:
            // Told again on every new link.
            if !hasLoaded { notify(.loaded) }
            hasLoaded = true
        case .resumed:
            if resumedNanoseconds == nil { notify(.resumed) }
            resumedNanoseconds = resumedNanoseconds ?? MonotonicClock.nowNanoseconds()
        case .allResident:
            // Believed only when it can be true: the memory is let go for it.
            guard guestStoppedNanoseconds != nil, isExposed || engine.isAllSent, relay == nil || isCommitted else {
                return end(.unexpectedFrame(header.kind))
            }
            lastPageNanoseconds = MonotonicClock.nowNanoseconds()
            notify(.allResident)
            end(nil)
        case .ping:
            enqueue(FrameHeader(.pong, argument: header.argument))
        case .pong:
            break
        case .failure:
            end(.peerFailed(Failure(header: header, payload: buffers.copy(lane, byteCount: header.payloadBytes))))
        default:
            end(.unexpectedFrame(header.kind))
        }
    }

    mutating func sent(_ token: UInt64, lane: LaneIndex) {
        guard token != LentPages.notCounted else { return }
        let isKept = returned.append(token)
        precondition(isKept, "no more pages come back than are lent")
    }

    mutating func closed(_ lane: LaneIndex, _ reason: LaneClosure) {
        let error = SessionError(closure: reason, lane: lane)
        if case .linkLost = error { lose(error) } else { end(error) }
    }
}
