/// How many pushed bytes may be on the way, so that the link is full and the queue in front of a demand is short. No I/O and no
/// clock of its own; times are nanoseconds on any clock that only goes forward.
///
/// What is on the way is either travelling or queued somewhere: in the sender's socket, in a switch, in the receiver's socket.
/// `rate x round trip of an empty link` bytes travel; whatever more is allowed queues, and delays every demand behind it by
/// `excess / rate`. So the window is `rate x (empty round trip + delay target)`: with the highest rate seen lately, and the
/// shortest round trip of the urgent lane, which no pushed page ever stands in front of inside this program.
///
/// The filters and the doubling start are those of BBR (Cardwell et al., "BBR: Congestion-Based Congestion Control", 2016); from
/// then on the round trips that are measured decide, by the law of FAST TCP (Wei et al., "FAST TCP: Motivation, Architecture,
/// Algorithms, Performance", 2006): credit comes in batches, and on a longer link `rate x round trip` alone closes the window. A rate seen while nothing queues is what the window or the source allowed, not what the
/// link carries: it can raise the estimate, and never lowers it.
public struct PushPacer: Sendable {
    /// What the queue may cost a demand, where nothing on the way but the link delays.
    public static let standardDelayTargetNanoseconds: UInt64 = 400_000
    /// A round is at least this long: less, and the grain of timers and batches is measured.
    static let leastRoundNanoseconds: UInt64 = 2_000_000
    /// A round trip is believed to be that of an empty link for this long; then the queue is drained once to look again.
    static let baseLifetimeNanoseconds: UInt64 = 10_000_000_000
    /// Beyond this nothing is gained on any link there is.
    static let mostBytes = 64 << 20
    /// Less than a few extents keeps no link busy: 2.6 ms of 100 Mbit/s.
    static let floorBytes = 32 << 10
    /// Allowed until the link is known.
    static let firstBytes = 64 << 10
    private static let rateCount = 8
    /// Every so many rounds a little more is tried, in case the link carries it.
    private static let probeRounds = 8
    private static let probeGain = 1.25
    /// The start ends after so many rounds that brought less than a quarter more.
    private static let mostFlatRounds = 3

    /// Bytes that may be on the way now.
    public private(set) var windowBytes: Int
    /// The shortest round trip lately; nil before the first.
    public private(set) var baseNanoseconds: UInt64?
    /// Whether the window still doubles.
    public private(set) var isStarting = true
    private let leastBytes: Int
    private let delayTargetNanoseconds: UInt64
    private var baseTakenNanoseconds: UInt64 = 0
    /// While the queue drains: until when, and the shortest round trip meanwhile.
    private var drainEndNanoseconds: UInt64?
    private var drainedNanoseconds: UInt64 = .max
    private var roundStartNanoseconds: UInt64?
    private var roundStartBytes = 0
    /// The shortest round trip that ended in this round; none yet: the round goes on.
    private var roundTripNanoseconds: UInt64 = .max
    /// Bytes a second, of the last rounds that said something of the link, in a circle.
    private var rates: InlineArray<8, Double> = .init(repeating: 0)
    private var nextRate = 0
    /// Rounds in a row in which the window was used and nothing queued.
    private var freeRounds = 0
    /// The highest rate when the start or a probe was last seen to gain.
    private var gainedRate = 0.0
    private var flatRounds = 0

    /// - Parameters:
    ///   - leastBytes: the smallest window; two pages, or a push could starve for want of a whole one.
    ///   - delayTargetNanoseconds: what the queue may cost a demand; more than round trips vary by themselves.
    public init(leastBytes: Int, delayTargetNanoseconds: UInt64 = Self.standardDelayTargetNanoseconds) {
        self.delayTargetNanoseconds = delayTargetNanoseconds
        self.leastBytes = max(leastBytes, Self.floorBytes)
        windowBytes = max(leastBytes, Self.firstBytes)
    }

    /// Credit is worth granting from so many bytes on: not a frame for every page, and not so much at once that the burst it
    /// lets go is a queue of its own.
    public var grantBytes: Int {
        let bytes = bytesPerSecond * Double(delayTargetNanoseconds / 4) / 1e9
        return max(1, min(windowBytes / 4, max(Int(bytes), 4 << 10)))
    }

    /// The highest rate of the last rounds in bytes a second; 0 before the first.
    public var bytesPerSecond: Double {
        var highest = 0.0
        for index in 0..<Self.rateCount { highest = max(highest, rates[index]) }
        return highest
    }

    /// A round trip on the urgent lane has ended.
    public mutating func roundTrip(_ nanoseconds: UInt64, nowNanoseconds now: UInt64) {
        roundTripNanoseconds = min(roundTripNanoseconds, nanoseconds)
        if drainEndNanoseconds != nil { drainedNanoseconds = min(drainedNanoseconds, nanoseconds) }
        guard let base = baseNanoseconds, nanoseconds > base else {
            baseNanoseconds = nanoseconds
            baseTakenNanoseconds = now
            return
        }
        // As good as the same: scheduling alone spreads as much.
        if nanoseconds - base < delayTargetNanoseconds / 4 { baseTakenNanoseconds = now }
    }

    /// Brings the window up to date. Call at every turn; cheap within a round, and constant at its end.
    ///
    /// - Parameter receivedBytes: pushed bytes that have come since the session began.
    public mutating func update(receivedBytes: Int, nowNanoseconds now: UInt64) {
        guard let start = roundStartNanoseconds else { return beginRound(receivedBytes, now) }
        let elapsed = now - start
        guard elapsed >= max(Self.leastRoundNanoseconds, baseNanoseconds ?? 0) else { return }
        if drainEndNanoseconds != nil { return drain(receivedBytes, now) }
        guard let base = baseNanoseconds, roundTripNanoseconds != .max else { return }
        let queueNanoseconds = roundTripNanoseconds - min(base, roundTripNanoseconds)
        let rate = Double(receivedBytes - roundStartBytes) / Double(elapsed) * 1e9
        observe(rate, queueNanoseconds: queueNanoseconds)
        if isStarting {
            widen(queueNanoseconds: queueNanoseconds, base: base)
        } else {
            settle(rate: rate, base: base)
        }
        beginRound(receivedBytes, now)
        if now - baseTakenNanoseconds > Self.baseLifetimeNanoseconds { beginDrain(base, now) }
    }

    /// What the queue may cost: at least the time of a few extents, since a slow link is not kept busy with less.
    private var targetNanoseconds: UInt64 {
        guard bytesPerSecond > 0 else { return delayTargetNanoseconds }
        let floorNanoseconds = min(Double(Self.floorBytes) / bytesPerSecond * 1e9, Double(Self.baseLifetimeNanoseconds))
        return max(delayTargetNanoseconds, UInt64(floorNanoseconds))
    }

    private mutating func beginRound(_ receivedBytes: Int, _ now: UInt64) {
        (roundStartNanoseconds, roundStartBytes) = (now, receivedBytes)
        roundTripNanoseconds = .max
    }

    /// Only a queue shows that the link was the bound; a pause of the source or a small window shows a low rate too.
    private mutating func observe(_ rate: Double, queueNanoseconds: UInt64) {
        let isBoundByLink = queueNanoseconds >= targetNanoseconds / 2
        guard rate > 0, isBoundByLink || rate > bytesPerSecond else { return }
        rates[nextRate] = rate
        nextRate = (nextRate + 1) % Self.rateCount
    }

    /// Doubles the window a round, until something queues or nothing is gained by it.
    private mutating func widen(queueNanoseconds: UInt64, base: UInt64) {
        guard bytesPerSecond > 0 else { return }
        if bytesPerSecond > gainedRate * Self.probeGain {
            gainedRate = bytesPerSecond
            flatRounds = 0
        } else {
            flatRounds += 1
        }
        if queueNanoseconds >= targetNanoseconds {
            // What queues is what the last doubling allowed too much, or the one before; the law finds the rest.
            isStarting = false
            return set(max(bytesPerSecond * Double(base + targetNanoseconds) / 1e9, Double(windowBytes / 2)))
        }
        if flatRounds >= Self.mostFlatRounds {
            isStarting = false
            return choose(base)
        }
        windowBytes = min(2 * windowBytes, Self.mostBytes)
    }

    /// One step towards the window at which the queue is as long as is allowed: FAST TCP's law, halfway a
    /// round. Where nothing queues for long although the window is used, a quarter more is tried: on a long link the law
    /// itself would find a faster path only slowly.
    private mutating func settle(rate: Double, base: UInt64) {
        let trip = max(roundTripNanoseconds, base, 1)
        let isUsed = rate * Double(trip) / 1e9 >= 0.5 * Double(windowBytes)
        let wanted = Double(windowBytes) * Double(base) / Double(trip) + bytesPerSecond * Double(targetNanoseconds) / 1e9
        let next = (Double(windowBytes) + wanted) / 2
        if next < Double(windowBytes) || isUsed { set(next) }
        freeRounds = isUsed && trip - base < targetNanoseconds / 4 ? freeRounds + 1 : 0
        let hasGained = freeRounds > 0 && bytesPerSecond > gainedRate * 1.1
        guard hasGained || freeRounds >= Self.probeRounds else { return }
        freeRounds = 0
        gainedRate = bytesPerSecond
        set(Double(windowBytes) * Self.probeGain)
    }

    private mutating func set(_ bytes: Double) { windowBytes = max(leastBytes, Int(min(bytes, Double(Self.mostBytes)))) }

    private mutating func choose(_ base: UInt64) {
        set(bytesPerSecond * Double(base + targetNanoseconds) / 1e9)
    }

    /// A base that was not seen for long may be gone: another path, another load. With a queue always there no round trip
    /// would tell, so it is drained, for a time that holds a round trip.
    private mutating func beginDrain(_ base: UInt64, _ now: UInt64) {
        drainEndNanoseconds = now + max(2 * base, 20_000_000)
        drainedNanoseconds = .max
        windowBytes = leastBytes
    }

    private mutating func drain(_ receivedBytes: Int, _ now: UInt64) {
        guard let end = drainEndNanoseconds, now >= end else { return }
        drainEndNanoseconds = nil
        if drainedNanoseconds != .max { baseNanoseconds = drainedNanoseconds }
        baseTakenNanoseconds = now
        beginRound(receivedBytes, now)
        if let baseNanoseconds { choose(baseNanoseconds) }
    }
}
