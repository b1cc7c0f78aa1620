import PageCore
import PageFerry

/// What every benchmark is given.
public struct BenchmarkContext: Sendable {
    /// This very program: it is also the source, in a process of its own.
    public var executablePath: String
    /// The library that counts allocations, loaded into a process of its own; nil when it was not found.
    public var allocationProbePath: String?
    /// Where recorded traces lie; nil for none.
    public var tracesPath: String?
    /// The RDMA device; nil takes the first with an IPv4 address.
    public var device: String?
    /// Measured rounds of each benchmark; a warm-up round comes before them.
    public var rounds = 5
    /// Told what is being done, for a progress line.
    public var progress: @Sendable (String) -> Void = { _ in }

    public init(executablePath: String) { self.executablePath = executablePath }

    /// Runs interleaved rounds: `body` measures everything that is compared once, in one go.
    ///
    /// - Parameter body: its first call warms up, and its records are dropped.
    func interleave(
        _ name: String, _ body: (_ round: Int, inout RoundLedger) throws(BenchmarkError) -> Void
    ) throws(BenchmarkError) -> RoundLedger {
        var warmUp = RoundLedger()
        progress("\(name): warming up")
        try body(0, &warmUp)
        var ledger = RoundLedger()
        for round in 1...rounds {
            progress("\(name): round \(round) of \(rounds)")
            try body(round, &ledger)
        }
        return ledger
    }
}

/// How a thread waits for what comes next.
enum WaitMode: String, Sendable {
    /// It spins.
    case busy
    /// It sleeps in the kernel.
    case event
    /// As sessions do where nothing is said: it spins for a short while, and sleeps then.
    case adaptive

    /// Those that have a floor.
    static let extremes: [WaitMode] = [.busy, .event]

    /// The setting of sessions and sources.
    var polling: Polling {
        switch self {
        case .busy: .busy
        case .event: .event
        case .adaptive: .adaptive()
        }
    }
}

/// The kinds of connections that are measured.
enum SocketKind: String, Sendable, CaseIterable {
    case tcp
    case unix
}
