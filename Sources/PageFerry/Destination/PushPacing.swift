import PageEngine
import PageWire

/// Asks the source for round trips on the urgent lane while it pushes, and keeps the credit to what the link carries.
struct PushPacing {
    private static let pingIntervalNanoseconds: UInt64 = 2_000_000

    private var pacer: PushPacer
    private var nextPingNanoseconds: UInt64 = 0
    /// When the ping that is on its way was sent; it is also what the ping carries.
    private var pingNanoseconds: UInt64?

    /// What round trips vary by where two threads more at either end carry them, one for TLS.
    private static let secureDelayTargetNanoseconds: UInt64 = 2_000_000

    init(leastBytes: Int, isSecure: Bool) {
        pacer = PushPacer(
            leastBytes: leastBytes,
            delayTargetNanoseconds: isSecure ? Self.secureDelayTargetNanoseconds : PushPacer.standardDelayTargetNanoseconds)
    }

    var windowBytes: Int { pacer.windowBytes }
    var grantBytes: Int { pacer.grantBytes }

    /// A ping, when one is due. At most one is on its way.
    mutating func ping(nowNanoseconds now: UInt64) -> FrameHeader? {
        guard pingNanoseconds == nil, now >= nextPingNanoseconds else { return nil }
        pingNanoseconds = now
        nextPingNanoseconds = now + Self.pingIntervalNanoseconds
        return FrameHeader(.ping, argument: now)
    }

    /// A pong has come. One that answers no ping says nothing.
    mutating func answered(_ argument: UInt64, nowNanoseconds now: UInt64) {
        guard argument == pingNanoseconds else { return }
        pingNanoseconds = nil
        pacer.roundTrip(now - argument, nowNanoseconds: now)
    }

    mutating func update(receivedBytes: Int, nowNanoseconds now: UInt64) {
        pacer.update(receivedBytes: receivedBytes, nowNanoseconds: now)
    }
}
