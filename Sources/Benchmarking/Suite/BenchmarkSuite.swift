import PageCore

/// The benchmarks by name, in the order in which `all` runs them.
public enum BenchmarkName: String, Sendable, CaseIterable {
    case floor
    case fault
    case faultUnderPush = "fault-under-push"
    case push
    case pattern
    case cpu
    case memory
    case scale
    case secure
    case handoff
    case engine
    case allocations
    /// Not one of `all`: it runs over a link of its own.
    case link
    /// Not one of `all`: it needs a device and perftest.
    case rdma

    /// Those that every host can run, in order.
    public static var everywhere: [BenchmarkName] { allCases.filter { $0 != .rdma && $0 != .link } }

    /// Runs the benchmark.
    public func run(_ context: BenchmarkContext) throws(BenchmarkError) -> BenchmarkResult {
        let start = MonotonicClock.nowNanoseconds()
        let use = MachineUse()
        var result =
            switch self {
            case .floor: try FloorBenchmark(context).run()
            case .fault: try FaultBenchmark(context).run()
            case .faultUnderPush: try FaultUnderPushBenchmark(context).run()
            case .push: try PushBenchmark(context).run()
            case .pattern: try PatternBenchmark(context).run()
            case .cpu: try ProcessorBenchmark(context).run()
            case .memory: try MemoryBenchmark(context).run()
            case .scale: try ScaleBenchmark(context).run()
            case .secure: try SecureBenchmark(context).run()
            case .handoff: try HandoffBenchmark(context).run()
            case .engine: try EngineBenchmark(context).run()
            case .allocations: try AllocationBenchmark(context).run()
            case .link: try LinkBenchmark(context).run()
            case .rdma: try RDMABenchmark(context).run()
            }
        result.elapsedSeconds = Double(MonotonicClock.nowNanoseconds() - start) / 1e9
        result.otherUsePercent = MachineUse().percentOfOthers(since: use)
        return result
    }
}
