import Demonstration
import HostMemory
import PageCore
import PageFerry

/// `bench scale`: faults a second over 1 to 8 faulting threads, regions and sessions.
struct ScaleBenchmark {
    private static let counts = [1, 2, 4, 8]
    private static let memoryBytes = 256 << 20
    private static let faultCount = 4_000
    /// How many threads fault where regions are counted.
    private static let regionThreads = 4
    private static let sessionBytes = 64 << 20

    private let context: BenchmarkContext

    init(_ context: BenchmarkContext) { self.context = context }

    func run() throws(BenchmarkError) -> BenchmarkResult {
        var result = BenchmarkResult(
            name: "scale", title: "Faults a second over threads, regions and sessions: random pages, no push, TCP loopback",
            rounds: context.rounds)
        let image = try BenchmarkImage(lengthBytes: Self.memoryBytes)
        let memory = try TwiceMappedMemory(lengthBytes: Self.memoryBytes)
        let source = try Placement.source.run { () throws(BenchmarkError) in
            try SourceProcess(executablePath: context.executablePath, memory: image.file, kind: .tcp, mode: .busy)
        }
        let sessions = try SessionScale(context, sessionBytes: Self.sessionBytes, mostSessions: Self.counts.max() ?? 1)
        let ledger = try context.interleave("scale") { (round, ledger) throws(BenchmarkError) in
            for count in Self.counts {
                ledger.record("floor \(count)", try bareThreads(image, memory, count, round))
                ledger.record("threads \(count)", try threads(source, memory, count, round))
            }
            for count in Self.counts { ledger.record("regions \(count)", try regions(image, count, round)) }
            for count in Self.counts { ledger.record("sessions \(count)", try sessions.faultsPerSecond(count, round)) }
        }
        for count in Self.counts {
            result.figures.append(
                Figure(
                    "\(count) faulting thread\(count > 1 ? "s" : ""), busy", unit: "faults/s", ledger["threads \(count)"],
                    against: "bare resolver over the same wire", ledger["floor \(count)"], bound: .atLeast(0.8)))
        }
        for count in Self.counts {
            result.figures.append(
                Figure(
                    "\(count) region\(count > 1 ? "s" : ""), \(Self.regionThreads) threads, busy", unit: "faults/s",
                    ledger["regions \(count)"],
                    against: "one region", ledger["regions 1"]))
        }
        for count in Self.counts {
            result.figures.append(
                Figure(
                    "\(count) session\(count > 1 ? "s" : ""), a thread each", unit: "faults/s", ledger["sessions \(count)"],
                    against: "one session",
                    ledger["sessions 1"]))
        }
        result.notes = [
            "Windows of one page: every fault is one on the network. Each thread touches pages of its own.",
            "Regions are served by one thread, and by a source in this process; sessions have a thread each at either end.",
        ]
        return result
    }

    /// Splits random touches over threads, and counts until the last of them is through.
    ///
    /// - Returns: faults a second.
    static func touch(_ memory: PatternedMemoryParts, threads: Int, faultCount: Int, round: Int) throws(BenchmarkError) -> Double {
        var guests: [FaultingThread] = []
        for number in 0..<threads {
            let (pages, firstPage) = memory.part(number)
            let all = TouchOrder.random(
                pageCount: pages.pageCount, count: min(faultCount, pages.pageCount), seed: UInt64(round))
            // Threads of one part take turns at its pages.
            let sharers = memory.sharers(of: number, threads: threads)
            let order = all.enumerated().filter { $0.offset % sharers.count == sharers.index }.map(\.element)
            guests.append(FaultingThread(pages, order: Array(order.prefix(faultCount / threads)), firstPage: firstPage, isPlaced: true))
        }
        let results = guests.map { $0.join() }
        for result in results { try result.check() }
        let start = results.map(\.startNanoseconds).min() ?? 0
        let end = results.map(\.endNanoseconds).max() ?? 0
        return Double(results.reduce(0) { $0 + $1.waits }) / (Double(end - start) / 1e9)
    }

    private func threads(_ source: SourceProcess, _ memory: TwiceMappedMemory, _ count: Int, _ round: Int) throws(BenchmarkError) -> Double
    {
        try memory.rearm()
        let session = try Placement.destination.run { () throws(BenchmarkError) in
            try MeasuredSession(
                to: source.address, regions: [try memory.handOver()],
                SessionSettings(mode: .busy, windowBytes: PageSize.fourKiB.bytes, creditBytes: 0, bulkLanes: 1))
        }
        let rate = try Self.touch(PatternedMemoryParts([memory]), threads: count, faultCount: Self.faultCount, round: round)
        try session.cancel()
        return rate
    }

    private func bareThreads(_ image: BenchmarkImage, _ memory: TwiceMappedMemory, _ count: Int, _ round: Int) throws(BenchmarkError)
        -> Double
    {
        try memory.rearm()
        let resolver = try BareResolver(memory, source: try image.mapped(), kind: .tcp, mode: .busy)
        let rate = try Self.touch(PatternedMemoryParts([memory]), threads: count, faultCount: Self.faultCount, round: round)
        resolver.stop()
        return rate
    }

    private func regions(_ image: BenchmarkImage, _ count: Int, _ round: Int) throws(BenchmarkError) -> Double {
        let source = try Placement.source.run { () throws(BenchmarkError) in
            try LocalSource(image, regionCount: count, mode: .busy)
        }
        defer { source.stop() }
        var memories: [TwiceMappedMemory] = []
        var handedOver: [DestinationRegion] = []
        for number in 0..<count {
            let memory = try TwiceMappedMemory(lengthBytes: image.lengthBytes / count)
            try memory.rearm()
            handedOver.append(try memory.handOver(name: "region\(number)"))
            memories.append(memory)
        }
        let session = try Placement.destination.run { () throws(BenchmarkError) in
            try MeasuredSession(
                to: source.address, regions: handedOver,
                SessionSettings(mode: .busy, windowBytes: PageSize.fourKiB.bytes, creditBytes: 0, bulkLanes: 1))
        }
        let rate = try Self.touch(
            PatternedMemoryParts(memories), threads: max(Self.regionThreads, count), faultCount: Self.faultCount, round: round)
        try session.cancel()
        return rate
    }
}
