import HostMemory
import PageCore
import PageEngine
import PageFerry

/// `bench push`: a whole region moved with nobody faulting, against bare streams over as many connections.
struct PushBenchmark {
    private static let memoryBytes = 512 << 20
    private static let laneCounts = [1, 2, 4]

    private let context: BenchmarkContext

    init(_ context: BenchmarkContext) { self.context = context }

    func run() throws(BenchmarkError) -> BenchmarkResult {
        var result = BenchmarkResult(
            name: "push", title: "\(Self.memoryBytes >> 20) MiB pushed, nobody faulting, against bare streams", rounds: context.rounds)
        let image = try BenchmarkImage(lengthBytes: Self.memoryBytes)
        let memory = try TwiceMappedMemory(lengthBytes: Self.memoryBytes)
        let floor = StreamFloor(source: try image.mapped())
        var sources: [SocketKind: SourceProcess] = [:]
        for kind in SocketKind.allCases {
            sources[kind] = try SourceProcess(executablePath: context.executablePath, memory: image.file, kind: kind, mode: .adaptive)
        }
        let ledger = try context.interleave("push") { (_, ledger) throws(BenchmarkError) in
            for kind in SocketKind.allCases {
                for lanes in Self.laneCounts {
                    try memory.unmapGuest()
                    let bare = try floor.measure(kind, into: memory, streams: lanes)
                    ledger.record("floor \(kind) \(lanes)", Double(Self.memoryBytes) / bare.seconds / 1e9)
                    ledger.record("\(kind) \(lanes)", try push(sources[kind]!, memory, lanes: lanes))
                }
            }
        }
        for kind in SocketKind.allCases {
            for lanes in Self.laneCounts {
                let name = "\(kind) \(lanes)"
                result.figures.append(
                    Figure(
                        "\(kind), \(lanes) bulk lane\(lanes > 1 ? "s" : "")", unit: "GB/s", ledger[name], against: "bare streams",
                        ledger["floor \(name)"], bound: lanes == 1 ? .atLeast(0.85) : nil))
                result.lanes.append(LaneThroughput(series: "\(kind)", lanes: lanes, spread: Spread(ledger[name])))
                result.lanes.append(LaneThroughput(series: "\(kind), bare", lanes: lanes, spread: Spread(ledger["floor \(name)"])))
            }
        }
        result.residency = try residency(sources[.tcp]!, memory)
        result.notes = [
            "A bare stream has two threads of its own; a session serves all its lanes from one thread at either end.",
            "The resident pages over time are of one more run, in which a thread touches random pages meanwhile.",
        ]
        return result
    }

    /// - Returns: GB/s.
    private func push(_ source: SourceProcess, _ memory: TwiceMappedMemory, lanes: Int) throws(BenchmarkError) -> Double {
        try memory.rearm()
        let session = try MeasuredSession(
            to: source.address, regions: [try memory.handOver()], SessionSettings(mode: .adaptive, bulkLanes: lanes))
        let statistics = try session.complete()
        try Self.check(memory)
        return Double(Self.memoryBytes) / statistics.transferSeconds / 1e9
    }

    private static func check(_ memory: TwiceMappedMemory) throws(BenchmarkError) {
        // Every page now reads as the source has it, through the mapping the guest uses.
        let order = Array(stride(from: 0, to: memory.guest.pageCount, by: 61))
        try FaultingThread(memory.pages, order: order).join().check()
    }

    private func residency(_ source: SourceProcess, _ memory: TwiceMappedMemory) throws(BenchmarkError) -> [ResidencySample] {
        try memory.rearm()
        let session = try MeasuredSession(
            to: source.address, regions: [try memory.handOver()],
            SessionSettings(mode: .adaptive, statisticsIntervalNanoseconds: 1_000_000))
        let start = MonotonicClock.nowNanoseconds()
        let guest = FaultingThread(
            memory.pages, order: TouchOrder.random(pageCount: memory.guest.pageCount, count: 2_000, seed: 1), everyNanoseconds: 300_000,
            until: { session.statistics.missingPages == 0 })
        var samples: [ResidencySample] = []
        while true {
            let statistics = session.statistics
            samples.append(
                ResidencySample(
                    milliseconds: Double(MonotonicClock.nowNanoseconds() - start) / 1e6, demandPages: statistics.counts.demand,
                    windowPages: statistics.counts.window, pushPages: statistics.counts.push, zeroPages: statistics.counts.zero))
            if statistics.totalPages > 0, statistics.missingPages == 0 { break }
            if session.hasEnded(withinNanoseconds: 2_000_000) { break }
        }
        try guest.join().check()
        try session.complete()
        return samples
    }
}
