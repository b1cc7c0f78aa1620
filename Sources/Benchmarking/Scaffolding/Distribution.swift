import Histogram
import PageCore

/// Latencies, in nanoseconds from 100 ns to 100 s to three digits. Recording allocates nothing.
struct LatencyRecorder: Sendable {
    private(set) var histogram = Histogram<UInt64>(
        lowestDiscernibleValue: 100, highestTrackableValue: 100_000_000_000, numberOfSignificantValueDigits: .three)

    mutating func record(_ nanoseconds: UInt64) { histogram.record(min(max(100, nanoseconds), 100_000_000_000)) }

    mutating func add(_ other: LatencyRecorder) { histogram.add(other.histogram) }

    var count: Int { Int(histogram.totalCount) }

    func microseconds(_ percentile: Double) -> Double { Double(histogram.valueAtPercentile(percentile)) / 1_000 }
}

/// A distribution of latencies over all rounds, as published.
public struct Distribution: Sendable, Codable {
    public var name: String
    public var count: Int
    public var minMicroseconds: Double
    public var p50Microseconds: Double
    public var p90Microseconds: Double
    public var p99Microseconds: Double
    public var p999Microseconds: Double
    public var maxMicroseconds: Double
    /// The distribution itself for plots: ascending points.
    public var points: [Point]

    public struct Point: Sendable, Codable {
        public var microseconds: Double
        /// From 0 to 100: so many per cent took at most that long.
        public var percentile: Double
    }

    init(_ name: String, _ recorder: LatencyRecorder) {
        self.name = name
        let histogram = recorder.histogram
        count = recorder.count
        minMicroseconds = Double(histogram.min) / 1_000
        p50Microseconds = recorder.microseconds(50)
        p90Microseconds = recorder.microseconds(90)
        p99Microseconds = recorder.microseconds(99)
        p999Microseconds = recorder.microseconds(99.9)
        maxMicroseconds = Double(histogram.max) / 1_000
        points = histogram.percentiles(ticksPerHalfDistance: 5).map {
            Point(microseconds: Double($0.value) / 1_000, percentile: $0.percentile)
        }
    }
}
