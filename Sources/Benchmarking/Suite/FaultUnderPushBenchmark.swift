import HostMemory
import PageCore
import PageFerry

/// `bench fault-under-push`: a thread that faults at a steady pace while the push runs: how long it waits, and what that costs
/// the push. Idle faults and an undisturbed push are measured in the same rounds.
struct FaultUnderPushBenchmark {
    private static let memoryBytes = 512 << 20
    private static let idleFaults = 1_500
    /// Touches a second; 0 touches as fast as answers come.
    private static let paces = [500, 2_000, 0]

    private let context: BenchmarkContext

    init(_ context: BenchmarkContext) { self.context = context }

    func run() throws(BenchmarkError) -> BenchmarkResult {
        var result = BenchmarkResult(
            name: "fault-under-push", title: "Demand faults while \(Self.memoryBytes >> 20) MiB are pushed, TCP loopback",
            rounds: context.rounds)
        let image = try BenchmarkImage(lengthBytes: Self.memoryBytes)
        let memory = try TwiceMappedMemory(lengthBytes: Self.memoryBytes)
        let source = try Placement.source.run { () throws(BenchmarkError) in
            try SourceProcess(executablePath: context.executablePath, memory: image.file, kind: .tcp, mode: .adaptive)
        }
        var latencies: [String: LatencyRecorder] = [:]
        let ledger = try context.interleave("fault-under-push") { (round, ledger) throws(BenchmarkError) in
            let idle = try idleFaults(source, memory, round)
            ledger.record("idle p50", idle.microseconds(50))
            ledger.record("idle p99", idle.microseconds(99))
            if round > 0 { latencies["idle", default: LatencyRecorder()].add(idle) }
            ledger.record("push", try underPush(source, memory, pace: nil, round).rate)
            ledger.record("push beside", try underPush(source, memory, pace: Self.paces[0], isFaulting: false, round).rate)
            for pace in Self.paces {
                let (faults, rate) = try underPush(source, memory, pace: pace, round)
                let name = Self.name(pace)
                ledger.record("\(name) p50", faults.microseconds(50))
                ledger.record("\(name) p99", faults.microseconds(99))
                ledger.record("\(name) rate", rate)
                if round > 0 { latencies[name, default: LatencyRecorder()].add(faults) }
            }
        }
        for pace in Self.paces {
            let name = Self.name(pace)
            for (percentile, bound) in [("p50", nil), ("p99", Bound.atMost(4))] {
                result.figures.append(
                    Figure(
                        "\(name), \(percentile)", unit: "us", ledger["\(name) \(percentile)"], against: "idle faults",
                        ledger["idle \(percentile)"], bound: bound))
            }
            result.figures.append(
                Figure(
                    "\(name), push rate", unit: "GB/s", ledger["\(name) rate"], against: "undisturbed push", ledger["push"],
                    bound: .atLeast(0.8)))
            result.figures.append(
                Figure(
                    "  against a push beside a thread that only computes", unit: "GB/s", ledger["\(name) rate"],
                    against: "push beside a thread", ledger["push beside"]))
        }
        result.distributions = latencies.sorted { $0.key < $1.key }.map { Distribution($0.key, $0.value) }
        result.notes = [
            "Only touches that waited are timed; the rate is that of all content until the last page. Default settings: adaptive windows and waiting.",
            "The guest's thread computes between its touches: where it takes a processor that the daemons would have, the push beside a thread that computes, and touches one page all the time, tells that apart from what faults cost.",
            "'unpaced' touches the next page as soon as it has the last: what it fetches is part of the rate.",
        ]
        return result
    }

    private static func name(_ pace: Int) -> String { pace == 0 ? "unpaced" : "\(pace) touches a second" }

    private func idleFaults(_ source: SourceProcess, _ memory: TwiceMappedMemory, _ round: Int) throws(BenchmarkError) -> LatencyRecorder {
        try memory.rearm()
        let session = try begin(source, memory, SessionSettings(mode: .adaptive, creditBytes: 0))
        let order = TouchOrder.random(pageCount: memory.guest.pageCount, count: Self.idleFaults, stride: 16, seed: UInt64(round))
        let guest = FaultingThread(memory.pages, order: order, everyNanoseconds: 100_000, isPlaced: true).join()
        try session.cancel()
        try guest.check()
        return guest.latencies
    }

    private func begin(
        _ source: SourceProcess, _ memory: TwiceMappedMemory, _ settings: SessionSettings
    ) throws(BenchmarkError) -> MeasuredSession {
        let handedOver = [try memory.handOver()]
        return try Placement.destination.run { () throws(BenchmarkError) in
            try MeasuredSession(to: source.address, regions: handedOver, settings)
        }
    }

    /// - Returns: the waits, and GB/s of all content.
    private func underPush(
        _ source: SourceProcess, _ memory: TwiceMappedMemory, pace: Int?, isFaulting: Bool = true, _ round: Int
    ) throws(BenchmarkError) -> (faults: LatencyRecorder, rate: Double) {
        try memory.rearm()
        let session = try begin(source, memory, SessionSettings(mode: .adaptive))
        var guest: FaultingThread?
        if let pace {
            let count = memory.guest.pageCount / 16
            let order =
                isFaulting
                ? TouchOrder.random(pageCount: memory.guest.pageCount, count: count, stride: 16, seed: UInt64(round))
                : Array(repeating: 0, count: count)
            guest = FaultingThread(
                memory.pages, order: order, everyNanoseconds: pace == 0 ? 1 : 1_000_000_000 / UInt64(pace), isPlaced: true,
                until: { session.statistics.phase == .completed })
        }
        let statistics = try session.complete()
        let touched = guest?.join()
        try touched?.check()
        return (touched?.latencies ?? LatencyRecorder(), Double(Self.memoryBytes) / statistics.transferSeconds / 1e9)
    }
}
