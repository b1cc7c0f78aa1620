import Histogram
import PageCore
import PageEngine

/// Where a session stands. Names as QEMU has them.
public enum SessionPhase: String, Sendable, Hashable {
    /// Connected; memory and machine state are being prepared, the guest runs on the source.
    case setup
    /// Machine state is crossing.
    case active
    /// The guest has stopped on the source: its pages follow, by demand and by push.
    case postcopyActive = "postcopy-active"
    /// The link was lost: the peers look for each other, guest threads that touch missing pages wait.
    case postcopyPaused = "postcopy-paused"
    case completed
    case failed
    case cancelled
}

/// What one side of a session has done so far.
public struct SessionStatistics: Sendable {
    public var phase = SessionPhase.setup
    public var totalPages = 0
    /// Destination: pages not settled yet. Source: pages not sent yet.
    public var missingPages = 0
    public var counts = PageCounts()
    /// Destination: faults read. Source: requests received.
    public var faults = 0
    /// Destination: faults that waited for the wire; the others were on pages that had come, and were not visible yet.
    public var networkFaults = 0
    /// Threads that wait for a page right now.
    public var waitingFaults = 0
    public var latency = FaultLatency()
    /// Monotonic times on this host, nanoseconds; nil until it happened.
    public var guestStoppedNanoseconds: UInt64?
    public var resumedNanoseconds: UInt64?
    public var lastPageNanoseconds: UInt64?
    /// Since when the session is without a link; nil while it has one.
    public var pausedNanoseconds: UInt64?
    /// How often the link was lost.
    public var pauseCount = 0
    /// Why the session is paused, or what the last attempt to end that met.
    public var obstacle: SessionError?

    public init() {}
}

/// Fault latency percentiles, nanoseconds; all zero before the first fault was answered.
public struct FaultLatency: Sendable, Hashable {
    /// Faults that are in these figures.
    public var count = 0
    public var p50Nanoseconds: UInt64 = 0
    public var p99Nanoseconds: UInt64 = 0
    public var p999Nanoseconds: UInt64 = 0
    public var maxNanoseconds: UInt64 = 0

    public init() {}

    init(_ histogram: Histogram<UInt64>) {
        guard histogram.totalCount > 0 else { return }
        count = Int(histogram.totalCount)
        p50Nanoseconds = histogram.valueAtPercentile(50)
        p99Nanoseconds = histogram.valueAtPercentile(99)
        p999Nanoseconds = histogram.valueAtPercentile(99.9)
        maxNanoseconds = histogram.max
    }
}
