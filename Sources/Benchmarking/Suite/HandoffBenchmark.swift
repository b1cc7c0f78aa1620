import Demonstration
import Glibc
import PageCore

/// `bench handoff`: what a demanded page costs by the way in which the memory was handed over. Each way has a daemon of its own
/// from the installed program, this process is the VMM, and the native hand-off of the same kind of memory is what the others are
/// measured against.
struct HandoffBenchmark {
    private static let memoryBytes = 128 << 20
    private static let faultCount = 1_000
    private static let pagesApart = 16

    private let context: BenchmarkContext

    init(_ context: BenchmarkContext) { self.context = context }

    func run() throws(BenchmarkError) -> BenchmarkResult {
        var result = BenchmarkResult(
            name: "handoff", title: "A demand fault by the way its memory was handed over: 4 KiB, random pages, no push",
            rounds: context.rounds)
        let image = try BenchmarkImage(lengthBytes: Self.memoryBytes)
        let source = try Placement.source.run { () throws(BenchmarkError) in
            try SourceProcess(executablePath: context.executablePath, memory: image.file, kind: .unix, mode: .busy)
        }
        let cache = try CacheProcess(executablePath: context.executablePath, source: "\(source.address)", path: "\(image.file.path).cache")
        let ledger = try context.interleave("handoff") { (round, ledger) throws(BenchmarkError) in
            for way in HandoffWay.allCases {
                let latencies = try faults(way, way == .firecrackerOverCache ? cache.address : "\(source.address)", image, round)
                ledger.record("\(way.rawValue) p50", latencies.microseconds(50))
                ledger.record("\(way.rawValue) p99", latencies.microseconds(99))
            }
        }
        result.figures = figures(ledger)
        result.notes = [
            "Every way: one unix socket to the source, --window 4K --no-push, a daemon that spins. Pages of anonymous memory are copied, those of shared memory received in place.",
            "Firecracker's memory lies in two pieces. The cache was filled before.",
        ]
        return result
    }

    private func faults(_ way: HandoffWay, _ source: String, _ image: BenchmarkImage, _ round: Int) throws(BenchmarkError)
        -> LatencyRecorder
    {
        let guest = try HandoffGuest(
            way, lengthBytes: Self.memoryBytes, executablePath: context.executablePath, source: source, mode: .busy,
            path: "\(image.file.path).handoff")
        let half = guest.secondHalf(isFirecracker: way.isFirecracker)
        let firstPage = (Self.memoryBytes / 2) >> PageSize.fourKiB.shift
        // Nothing answers a Firecracker: its first page says that the daemon serves.
        try FaultingThread(half, order: [0], firstPage: firstPage, isPlaced: true).join().check()
        let order = TouchOrder.random(pageCount: half.pageCount, count: Self.faultCount, stride: Self.pagesApart, seed: UInt64(round))
            .filter { $0 != 0 }
        let seen = FaultingThread(half, order: order, firstPage: firstPage, isPlaced: true).join()
        try seen.check()
        withExtendedLifetime(guest) {}
        return seen.latencies
    }

    private func figures(_ ledger: RoundLedger) -> [Figure] {
        var figures: [Figure] = []
        for percentile in ["p50", "p99"] {
            let native = ledger["\(HandoffWay.nativeAnonymous.rawValue) \(percentile)"]
            figures.append(
                Figure(
                    "\(HandoffWay.nativeShared.rawValue), \(percentile)", unit: "us",
                    ledger["\(HandoffWay.nativeShared.rawValue) \(percentile)"]))
            figures.append(Figure("\(HandoffWay.nativeAnonymous.rawValue), \(percentile)", unit: "us", native))
            for way in [HandoffWay.firecracker, .firecrackerOverCache] {
                figures.append(
                    Figure(
                        "\(way.rawValue), \(percentile)", unit: "us", ledger["\(way.rawValue) \(percentile)"],
                        against: "the native hand-off, anonymous memory", native,
                        bound: way == .firecracker && percentile == "p50" ? .atMost(1.1) : nil))
            }
        }
        return figures
    }
}

/// `pageferry cache` with every page in it, in a process of its own, ended with this value.
private final class CacheProcess {
    let address: String
    private let child: ChildProcess
    private let path: String
    private let outputPath: String

    init(executablePath: String, source: String, path: String) throws(BenchmarkError) {
        self.path = path
        outputPath = "\(path).log"
        address = "unix:\(path)"
        Leftovers.expect(path)
        Leftovers.expect(outputPath)
        let (address, outputPath) = (address, outputPath)
        do throws(DemonstrationError) {
            child = try Placement.source.run { () throws(DemonstrationError) in
                try ChildProcess(
                    [executablePath, "cache", "--connect", source, "--listen", address, "--spin", "1000000"], outputPath: outputPath)
            }
        } catch {
            throw BenchmarkError(error.description)
        }
        let deadline = MonotonicClock.nowNanoseconds() + 60_000_000_000
        while !ProcessFile.read(outputPath).contains("every page is here") {
            guard MonotonicClock.nowNanoseconds() < deadline else { throw BenchmarkError("the cache did not fill") }
            _ = poll(nil, 0, 20)
        }
    }

    deinit {
        child.end()
        Leftovers.remove(path)
        Leftovers.remove(outputPath)
    }
}
