import PageCore

/// The benchmarks by name, in the order in which `all` runs them.
public enum BenchmarkName: String, Sendable, CaseIterable {
    case floor
    case fault

    /// Runs the benchmark.
    public func run(_ context: BenchmarkContext) throws(BenchmarkError) -> BenchmarkResult {
        let start = MonotonicClock.nowNanoseconds()
        var result =
            switch self {
            case .floor: try FloorBenchmark(context).run()
            case .fault: try FaultBenchmark(context).run()
            }
        result.elapsedSeconds = Double(MonotonicClock.nowNanoseconds() - start) / 1e9
        return result
    }
}
