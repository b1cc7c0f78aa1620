import Demonstration
import Foundation
import Glibc
import HostMemory
import PageCore
import PageFerry

/// `bench allocations`: heap allocations of the threads of the page path over 100,000 faults. A process of its own, with
/// the counting library preloaded, does the work: what it counts is proved by a thread that allocates a known number of times.
struct AllocationBenchmark {
    private static let memoryBytes = 512 << 20
    private static let faultCount = 100_000
    private static let warmUpFaults = 2_000
    private static let calibrationCount = 1_000
    private static let mostSeconds: UInt64 = 120

    private let context: BenchmarkContext

    init(_ context: BenchmarkContext) { self.context = context }

    func run() throws(BenchmarkError) -> BenchmarkResult {
        if let probe = AllocationProbe() { return try count(probe) }
        guard let library = context.allocationProbePath else {
            throw BenchmarkError(
                "libpageferry-allocation-probe.so is not beside this program; `swift build -c release` builds it")
        }
        return try countInChild(library)
    }

    // MARK: In the process with the probe

    private func count(_ probe: AllocationProbe) throws(BenchmarkError) -> BenchmarkResult {
        var result = BenchmarkResult(
            name: "allocations", title: "Heap allocations of the page path's threads, source and destination", rounds: 1)
        let image = try BenchmarkImage(lengthBytes: Self.memoryBytes)
        let memory = try TwiceMappedMemory(lengthBytes: Self.memoryBytes)
        let source = try LocalSource(image, regionCount: 1, mode: .adaptive)
        defer { source.stop() }
        try memory.rearm()
        let session = try MeasuredSession(
            to: source.address, regions: [try memory.handOver()],
            SessionSettings(mode: .adaptive, creditBytes: 0))
        let order = TouchOrder.random(pageCount: memory.guest.pageCount, count: Self.warmUpFaults + Self.faultCount, seed: 1)
        try FaultingThread(memory.pages, order: Array(order[..<Self.warmUpFaults])).join().check()
        let rest = Array(order[Self.warmUpFaults...])
        let before = probe.pagePathCount()
        let guest = FaultingThread(memory.pages, order: rest).join()
        let counted = probe.pagePathCount() - before
        try guest.check()
        try session.cancel()
        guard guest.waits > Self.faultCount * 99 / 100 else { throw BenchmarkError("only \(guest.waits) touches waited") }
        result.figures = [
            Figure("over \(Self.faultCount) faults", unit: "allocations", [Double(counted)], bound: .atMost(0)),
            Figure(
                "calibration: a thread that allocates \(Self.calibrationCount) times", unit: "allocations", [Double(calibrate(probe))],
                bound: .atLeast(Double(Self.calibrationCount))),
        ]
        return result
    }

    /// Allocates on a thread with a name of the page path's.
    private func calibrate(_ probe: AllocationProbe) -> UInt64 {
        let before = probe.pagePathCount()
        DedicatedThread(name: "source-shard") {
            // Kept until all are made: a compiler may drop memory that nobody looks at.
            var kept: [[UInt8]] = []
            kept.reserveCapacity(Self.calibrationCount)
            for number in 0..<Self.calibrationCount { kept.append([UInt8](repeating: UInt8(truncatingIfNeeded: number), count: 64)) }
            precondition(kept.count(where: { $0[63] == 1 }) > 0, "every array was filled")
        }.join()
        return probe.pagePathCount() - before
    }

    // MARK: In the process without

    private func countInChild(_ library: String) throws(BenchmarkError) -> BenchmarkResult {
        let path = "/dev/shm/pageferry-bench.\(getpid()).json"
        Leftovers.expect(path)
        defer { Leftovers.remove(path) }
        return try orBenchmarkError {
            let child = try ChildProcess(
                [context.executablePath, "bench", "allocations", "--json", path],
                environment: ["LD_PRELOAD": library], outputPath: "/dev/null")
            defer { child.end() }
            guard let code = child.waitForEnd(timeoutNanoseconds: Self.mostSeconds * 1_000_000_000) else {
                throw BenchmarkError("counting allocations took longer than \(Self.mostSeconds) s")
            }
            guard code == 0 else { throw BenchmarkError("the process that counts ended with exit code \(code)") }
            let report = try JSONDecoder().decode(BenchmarkReport.self, from: Data(contentsOf: URL(filePath: path)))
            guard let result = report.benchmarks.first else { throw BenchmarkError("the process that counts reported nothing") }
            return result
        }
    }
}

/// The preloaded library, where it is.
private struct AllocationProbe {
    private typealias Count = @convention(c) (Int32) -> UInt64

    private let count: Count

    /// Nil when it was not preloaded.
    init?() {
        // SAFETY: the null handle searches what is loaded; the symbol's type is that of its header.
        guard let symbol = unsafe dlsym(nil, "pageferry_allocation_count") else { return nil }
        count = unsafe unsafeBitCast(symbol, to: Count.self)
    }

    func pagePathCount() -> UInt64 { count(1) }
}
