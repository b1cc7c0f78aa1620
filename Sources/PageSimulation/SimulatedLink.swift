import PageCore
import PageWire

/// A frame as it travels: its header in wire form. Payload bytes are not carried, the receiver knows where to look them up.
struct Frame: Sendable {
    var header: InlineArray<32, UInt8>
    var payloadBytes: Int

    init(_ header: FrameHeader) {
        self.header = InlineArray(repeating: 0)
        payloadBytes = header.payloadBytes
        var span = self.header.mutableSpan
        // SAFETY: every bit pattern is a valid byte.
        var bytes = unsafe span.mutableBytes
        header.encode(into: &bytes)
    }

    func decoded() throws(FrameError) -> FrameHeader {
        // SAFETY: bytes have no padding between them.
        try unsafe FrameHeader(decoding: header.span.bytes)
    }
}

/// A piece of a frame on its way: the header goes with the first, `range` is the payload bytes of this one.
struct Chunk: Sendable {
    var frame: Frame
    var from: Int
    var to: Int
    var arrival: Int

    var isFirst: Bool { from == 0 }
    var isLast: Bool { to == frame.payloadBytes }
    var byteCount: Int { to - from + (isFirst ? FrameHeader.byteCount : 0) }
}

/// One direction of one connection: a bounded queue of frames before the wire, a bounded number of bytes on it.
final class SimulatedLane {
    var waiting: BoundedQueue<Frame>
    /// Payload bytes of the head of `waiting` that are on the wire already.
    var headSent = 0
    /// Bytes in `waiting` that are not on the wire.
    var pendingBytes = 0
    var flying: BoundedQueue<Chunk>
    var flyingBytes = 0
    /// Bytes that were taken here and of which the sender has not heard: they still count as on the wire.
    var owedBytes = 0
    var lastArrival = 0
    var readyAt = 0

    init(queueFrames: Int) {
        waiting = BoundedQueue(capacity: queueFrames)
        flying = BoundedQueue(capacity: 64)
    }

    var freeSlots: Int { waiting.capacity - waiting.count }
}

/// One direction between the hosts: lanes that share a bottleneck, piece by piece in turn.
struct SimulatedLink: ~Copyable {
    let lanes: [SimulatedLane]
    private let number: Int
    private let linkRate: Int
    private let laneRate: Int
    private let latency: Int
    private let jitter: Int
    private let chunkBytes: Int
    private let inFlightBytes: Int
    private let isToDestination: Bool
    private var random: SeededRandom
    private var freeAt = 0
    private var nextLane = 0
    /// When the link is looked at again, so that one wake-up is scheduled and not many.
    private var lookAt = -1
    /// Since when nothing gets through in this direction: what comes later is held back, and sent again when something does.
    private var silentSince: Int?
    /// Whether what is taken here is acknowledged: acknowledgements go the other way, which may be silent.
    private var isAcknowledged = true

    init(_ scenario: borrowing Scenario, number: Int, toDestination: Bool, seed: UInt64) {
        self.number = number
        lanes = (0..<scenario.laneCount).map { _ in SimulatedLane(queueFrames: scenario.laneQueueFrames) }
        linkRate = scenario.linkBytesPerMicrosecond
        laneRate = scenario.laneBytesPerMicrosecond
        latency = scenario.latencyNanoseconds
        jitter = scenario.jitterNanoseconds
        chunkBytes = scenario.chunkBytes
        inFlightBytes = scenario.laneInFlightBytes
        isToDestination = toDestination
        random = SeededRandom(seed: seed)
    }

    /// Queues a frame.
    ///
    /// - Returns: false when the lane's queue is full.
    func submit(_ header: FrameHeader, lane: Int) -> Bool {
        let lane = lanes[lane]
        guard lane.waiting.append(Frame(header)) else { return false }
        lane.pendingBytes += FrameHeader.byteCount + header.payloadBytes
        return true
    }

    /// Puts on the wire what has room there now.
    ///
    /// - Returns: whether a lane's queue became shorter.
    mutating func transmit(_ clock: inout VirtualClock) -> Bool {
        let now = clock.now
        var earliest = freeAt
        if freeAt <= now {
            earliest = .max
            for step in 0..<lanes.count {
                let number = (nextLane + step) % lanes.count
                let lane = lanes[number]
                guard let frame = lane.waiting.first, !lane.flying.isFull, lane.flyingBytes < inFlightBytes else { continue }
                guard lane.readyAt <= now else {
                    earliest = min(earliest, lane.readyAt)
                    continue
                }
                nextLane = number + 1
                put(frame, lane, &clock)
                return true
            }
        } else if !lanes.contains(where: { !$0.waiting.isEmpty }) {
            return false
        }
        look(at: earliest, &clock)
        return false
    }

    private mutating func put(_ frame: Frame, _ lane: SimulatedLane, _ clock: inout VirtualClock) {
        let now = clock.now
        let to = min(frame.payloadBytes, lane.headSent + chunkBytes)
        var chunk = Chunk(frame: frame, from: lane.headSent, to: to, arrival: 0)
        let bytes = chunk.byteCount
        freeAt = now + max(1, bytes * 1000 / linkRate)
        lane.readyAt = now + bytes * 1000 / laneRate
        lane.lastArrival = max(lane.lastArrival, freeAt + latency + (jitter > 0 ? random.next(below: jitter) : 0))
        chunk.arrival = lane.lastArrival
        lane.headSent = to
        if chunk.isLast {
            lane.waiting.popFirst()
            lane.headSent = 0
        }
        lane.pendingBytes -= bytes
        lane.flyingBytes += bytes
        _ = lane.flying.append(chunk)
        clock.schedule(.arrival(number, toDestination: isToDestination), at: chunk.arrival)
        look(at: freeAt, &clock)
    }

    private mutating func look(at time: Int, _ clock: inout VirtualClock) {
        guard time != .max, lookAt < clock.now || time < lookAt else { return }
        lookAt = max(time, clock.now)
        clock.schedule(.link(number, toDestination: isToDestination), at: lookAt)
    }

    // MARK: Silence

    /// - Parameters:
    ///   - carriesNothing: from now on what is sent here does not arrive.
    ///   - hearsNothing: acknowledgements of what is sent here do not come back.
    mutating func fallSilent(at now: Int, carriesNothing: Bool, hearsNothing: Bool) {
        if carriesNothing { silentSince = silentSince ?? now }
        if hearsNothing { isAcknowledged = false }
    }

    /// The silence is over: what it held back arrives from `time` on, in order, or is lost.
    mutating func heal(at time: Int, losing: Bool, _ clock: inout VirtualClock) {
        for lane in lanes {
            lane.flyingBytes -= lane.owedBytes
            lane.owedBytes = 0
            guard let since = silentSince else { continue }
            for _ in 0..<lane.flying.count {
                guard var chunk = lane.flying.popFirst() else { break }
                if chunk.arrival > since {
                    if losing {
                        lane.flyingBytes -= chunk.byteCount
                        continue
                    }
                    chunk.arrival = max(chunk.arrival, time)
                    lane.lastArrival = max(lane.lastArrival, chunk.arrival)
                }
                _ = lane.flying.append(chunk)
            }
        }
        silentSince = nil
        isAcknowledged = true
        clock.schedule(.arrival(number, toDestination: isToDestination), at: time)
        look(at: clock.now, &clock)
    }

    /// The sender has closed its end: what is not on the wire never is; what is there still comes, also what a silence holds back
    /// unless that is dropped.
    mutating func abandon(dropsHeldBack: Bool) {
        for lane in lanes {
            while lane.waiting.popFirst() != nil {}
            lane.headSent = 0
            lane.pendingBytes = 0
            guard dropsHeldBack, let since = silentSince else { continue }
            for _ in 0..<lane.flying.count {
                guard let chunk = lane.flying.popFirst() else { break }
                if chunk.arrival <= since { _ = lane.flying.append(chunk) }
            }
        }
    }

    /// The link is being looked at: the next look must be asked for again.
    mutating func looked() { lookAt = -1 }

    /// Whether a piece has arrived on a lane.
    func hasArrived(lane: Int, now: Int) -> Bool {
        guard let chunk = lanes[lane].flying.first else { return false }
        return chunk.arrival <= min(now, silentSince ?? now)
    }

    /// Takes the next piece that has arrived on a lane.
    func take(lane: Int, now: Int) -> Chunk? {
        guard hasArrived(lane: lane, now: now), let chunk = lanes[lane].flying.popFirst() else { return nil }
        if isAcknowledged { lanes[lane].flyingBytes -= chunk.byteCount } else { lanes[lane].owedBytes += chunk.byteCount }
        return chunk
    }
}

/// The connections of one attempt to link the hosts, as both know it by its number.
final class SimulatedConnection {
    let number: Int
    var toDestination: SimulatedLink
    var toSource: SimulatedLink
    /// What the destination has said it has, to go on from; empty for the first.
    let resident: [[UInt8]]
    var isClosedBySource = false
    var isClosedByDestination = false

    init(_ scenario: borrowing Scenario, number: Int, resident: [[UInt8]], seeds: (UInt64, UInt64)) {
        self.number = number
        self.resident = resident
        toDestination = SimulatedLink(scenario, number: number, toDestination: true, seed: seeds.0)
        toSource = SimulatedLink(scenario, number: number, toDestination: false, seed: seeds.1)
    }
}
