import PageCore
import PageEngine
import PageFerry

/// What one side of a session did, as `--json` writes it. Times are CLOCK_MONOTONIC of this host in nanoseconds.
struct SessionReport: Codable {
    /// Raised when a field changes its meaning or goes; new fields do not raise it.
    var schemaVersion = 1
    var side: String
    var phase: String
    var error: String?
    var totalPages: Int
    var missingPages: Int
    var demandPages: Int
    var windowPages: Int
    var pushPages: Int
    var zeroPages: Int
    var removedPages: Int
    var contentBytes: Int
    var faults: Int
    /// Those that waited for the wire; of the destination.
    var networkFaults: Int
    var timedFaults: Int
    var faultP50Microseconds: Double
    var faultP99Microseconds: Double
    var faultP999Microseconds: Double
    var faultMaxMicroseconds: Double
    /// How often the link was lost, and not for good.
    var pauses: Int
    var guestStoppedNanoseconds: UInt64?
    var resumedNanoseconds: UInt64?
    var lastPageNanoseconds: UInt64?

    init(side: String, _ statistics: SessionStatistics, error: String? = nil) {
        self.side = side
        self.error = error
        phase = statistics.phase.rawValue
        totalPages = statistics.totalPages
        missingPages = statistics.missingPages
        demandPages = statistics.counts.demand
        windowPages = statistics.counts.window
        pushPages = statistics.counts.push
        zeroPages = statistics.counts.zero
        removedPages = statistics.counts.removed
        contentBytes = statistics.counts.contentBytes
        faults = statistics.faults
        networkFaults = statistics.networkFaults
        timedFaults = statistics.latency.count
        faultP50Microseconds = Double(statistics.latency.p50Nanoseconds) / 1_000
        faultP99Microseconds = Double(statistics.latency.p99Nanoseconds) / 1_000
        faultP999Microseconds = Double(statistics.latency.p999Nanoseconds) / 1_000
        faultMaxMicroseconds = Double(statistics.latency.maxNanoseconds) / 1_000
        pauses = statistics.pauseCount
        guestStoppedNanoseconds = statistics.guestStoppedNanoseconds
        resumedNanoseconds = statistics.resumedNanoseconds
        lastPageNanoseconds = statistics.lastPageNanoseconds
    }
}
