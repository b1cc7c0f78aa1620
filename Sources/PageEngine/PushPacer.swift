/// How many pushed bytes may be on the way, so that the link is full and the queue in front of a demand is short. No I/O and no
/// clock of its own; times are nanoseconds on any clock that only goes forward.
///
/// What is on the way is either travelling or queued somewhere: in the sender's socket, in a switch, in the receiver's socket.
/// `rate x round trip of an empty link` bytes travel; whatever more is allowed queues, and delays every demand behind it by
/// `excess / rate`. So the window is `rate x (empty round trip + delay target)`: with the highest rate seen lately (as BBR's
/// bottleneck filter: Cardwell et al., "BBR: Congestion-Based Congestion Control", 2016), and the shortest round trip of the
/// urgent lane, which no pushed page ever stands in front of inside this program. A window that is too small for the link
/// shows a rate below the link's, and grows by `1 + target / empty round trip` an interval; one that is too large shows the
/// link's own rate, and shrinks to it. Until the rate stops growing the window doubles an interval, as a new flow does: on a long
/// path the delay target alone would open it too slowly.
public struct PushPacer: Sendable {
    /// What the queue may cost a demand.
    public static let delayTargetNanoseconds: UInt64 = 400_000
    /// Rates are taken over at least this long: less, and the grain of timers and batches is measured.
    static let leastIntervalNanoseconds: UInt64 = 2_000_000
    /// A round trip is believed to be that of an empty link for this long; then the queue is drained once to look again.
    static let baseLifetimeNanoseconds: UInt64 = 10_000_000_000
    /// Beyond this nothing is gained on any link there is.
    static let mostBytes = 64 << 20
    /// Allowed until the link is known.
    static let firstBytes = 64 << 10
    /// The start is over after so many intervals in which the rate grew by less than a quarter.
    private static let flatIntervals = 3
    private static let rateCount = 8

    /// Bytes that may be on the way now.
    public private(set) var windowBytes: Int
    /// The shortest round trip lately; nil before the first.
    public private(set) var baseNanoseconds: UInt64?
    private let leastBytes: Int
    private var baseTakenNanoseconds: UInt64 = 0
    /// While the queue drains: until when, and the shortest round trip meanwhile.
    private var drainEndNanoseconds: UInt64?
    private var drainedNanoseconds: UInt64 = .max
    private var intervalStartNanoseconds: UInt64?
    private var intervalStartBytes = 0
    /// Bytes a second, of the last intervals in which anything came, in a circle.
    private var rates: InlineArray<8, Double> = .init(repeating: 0)
    private var nextRate = 0
    private var isStarting = true
    private var flatCount = 0
    private var highestRate = 0.0

    /// - Parameter leastBytes: the smallest window; two pages, or a push could starve for want of a whole one.
    public init(leastBytes: Int) {
        self.leastBytes = leastBytes
        windowBytes = max(leastBytes, Self.firstBytes)
    }

    /// The highest rate of the last intervals in bytes a second; 0 before the first.
    public var bytesPerSecond: Double {
        var highest = 0.0
        for index in 0..<Self.rateCount { highest = max(highest, rates[index]) }
        return highest
    }

    /// A round trip on the urgent lane has ended.
    public mutating func roundTrip(_ nanoseconds: UInt64, nowNanoseconds now: UInt64) {
        if drainEndNanoseconds != nil { drainedNanoseconds = min(drainedNanoseconds, nanoseconds) }
        if nanoseconds <= baseNanoseconds ?? .max {
            baseNanoseconds = nanoseconds
            baseTakenNanoseconds = now
        }
    }

    /// Brings the window up to date. Call at every turn; cheap between intervals.
    ///
    /// - Parameter receivedBytes: pushed bytes that have come since the session began.
    public mutating func update(receivedBytes: Int, nowNanoseconds now: UInt64) {
        guard let start = intervalStartNanoseconds else {
            (intervalStartNanoseconds, intervalStartBytes) = (now, receivedBytes)
            return
        }
        let elapsed = now - start
        guard elapsed >= max(Self.leastIntervalNanoseconds, baseNanoseconds ?? 0) else { return }
        let bytes = receivedBytes - intervalStartBytes
        (intervalStartNanoseconds, intervalStartBytes) = (now, receivedBytes)
        keepBaseFresh(now)
        // A pause says nothing about the link, and neither does a queue that is being drained.
        if bytes > 0, drainEndNanoseconds == nil {
            rates[nextRate] = Double(bytes) / Double(elapsed) * 1e9
            nextRate = (nextRate + 1) % Self.rateCount
            watchStart(Double(bytes) / Double(elapsed) * 1e9)
        }
        choose()
    }

    private mutating func watchStart(_ rate: Double) {
        guard isStarting else { return }
        flatCount = rate > 1.25 * highestRate ? 0 : flatCount + 1
        highestRate = max(highestRate, rate)
        if flatCount >= Self.flatIntervals { isStarting = false }
    }

    private mutating func choose() {
        guard drainEndNanoseconds == nil else {
            windowBytes = leastBytes
            return
        }
        guard let baseNanoseconds, bytesPerSecond > 0 else { return }
        let bytes = (isStarting ? 2 : 1) * bytesPerSecond * Double(baseNanoseconds + Self.delayTargetNanoseconds) / 1e9
        windowBytes = max(leastBytes, Int(min(bytes, Double(Self.mostBytes))))
    }

    /// A base that was not seen for long may be gone: another path, another load. With a queue always there no round trip
    /// would tell, so it is drained, for a time that holds a round trip.
    private mutating func keepBaseFresh(_ now: UInt64) {
        guard let base = baseNanoseconds else { return }
        if let end = drainEndNanoseconds {
            guard now >= end else { return }
            drainEndNanoseconds = nil
            baseNanoseconds = drainedNanoseconds == .max ? base : drainedNanoseconds
            baseTakenNanoseconds = now
        } else if now - baseTakenNanoseconds > Self.baseLifetimeNanoseconds {
            drainEndNanoseconds = now + max(2 * base, 20_000_000)
            drainedNanoseconds = .max
        }
    }
}
