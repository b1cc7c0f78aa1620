import HostMemory
import PageCore
import PageFerry

/// `bench link`: demands and the push over a link with a rate and a queue of its own: how long a demand waits on the idle link
/// and while the push runs at full rate, and how much of the link the push fills, against one bare TCP stream.
struct LinkBenchmark {
    private static let idleFaults = 600
    private static let pacePerSecond: UInt64 = 500
    /// The push is to last about this long at the bare stream's rate.
    private static let pushSeconds = 2.0

    private let context: BenchmarkContext

    init(_ context: BenchmarkContext) { self.context = context }

    func run() throws(BenchmarkError) -> BenchmarkResult {
        let link = try BareLink()
        let rate = try link.streamRate(seconds: 1)
        let bytes = Int(min(max(rate * Self.pushSeconds, 16e6), 1e9)) & ~((2 << 20) - 1)
        var result = BenchmarkResult(
            name: "link",
            title: "\(bytes >> 20) MiB over a link of \(Int(rate * 8 / 1e6)) Mbit/s for a bare TCP stream", rounds: context.rounds)
        let image = try BenchmarkImage(lengthBytes: bytes)
        let memory = try TwiceMappedMemory(lengthBytes: bytes)
        let source = try Placement.source.run { () throws(BenchmarkError) in
            try SourceProcess(
                executablePath: context.executablePath, memory: image.file, kind: .tcp, mode: .adaptive, host: link.sourceAddress,
                prefix: link.commandPrefix)
        }
        var latencies: [String: LatencyRecorder] = [:]
        let ledger = try context.interleave("link") { (round, ledger) throws(BenchmarkError) in
            ledger.record("stream", try link.streamRate(seconds: 1) / 1e6)
            let idle = try idleFaults(source, memory, round)
            ledger.record("push", try push(source, memory, isTouched: false, round).rate)
            let (faults, rate) = try push(source, memory, isTouched: true, round)
            ledger.record("touched push", rate)
            for (name, recorder) in [("idle", idle), ("under push", faults)] {
                ledger.record("\(name) p50", recorder.microseconds(50))
                ledger.record("\(name) p99", recorder.microseconds(99))
                if round > 0 { latencies[name, default: LatencyRecorder()].add(recorder) }
            }
            ledger.record("excess p99", faults.microseconds(99) - idle.microseconds(99))
        }
        result.figures = figures(ledger)
        result.distributions = latencies.sorted { $0.key < $1.key }.map { Distribution($0.key, $0.value) }
        result.notes = [
            "Under push: \(Self.pacePerSecond) touches a second of pages that are mostly missing. The bare stream is one TCP connection of iperf3. Waiting as by default."
        ]
        return result
    }

    private func figures(_ ledger: RoundLedger) -> [Figure] {
        [
            Figure("fault on the idle link, p50", unit: "us", ledger["idle p50"]),
            Figure("fault on the idle link, p99", unit: "us", ledger["idle p99"]),
            Figure("fault under push, p50", unit: "us", ledger["under push p50"], against: "idle", ledger["idle p50"]),
            Figure("fault under push, p99", unit: "us", ledger["under push p99"], against: "idle", ledger["idle p99"]),
            Figure("  above the idle link's p99", unit: "us", ledger["excess p99"], bound: .atMost(1_000)),
            Figure(
                "push, nobody faulting", unit: "MB/s", ledger["push"], against: "bare TCP stream", ledger["stream"], bound: .atLeast(0.9)),
            Figure("push, under those faults", unit: "MB/s", ledger["touched push"], against: "bare TCP stream", ledger["stream"]),
        ]
    }

    private func begin(
        _ source: SourceProcess, _ memory: TwiceMappedMemory, _ settings: SessionSettings
    ) throws(BenchmarkError) -> MeasuredSession {
        let handedOver = [try memory.handOver()]
        return try Placement.destination.run { () throws(BenchmarkError) in
            try MeasuredSession(to: source.address, regions: handedOver, settings)
        }
    }

    private func idleFaults(_ source: SourceProcess, _ memory: TwiceMappedMemory, _ round: Int) throws(BenchmarkError) -> LatencyRecorder {
        try memory.rearm()
        let session = try begin(source, memory, SessionSettings(mode: .adaptive, creditBytes: 0))
        let count = min(Self.idleFaults, memory.guest.pageCount / 16)
        let order = TouchOrder.random(pageCount: memory.guest.pageCount, count: count, stride: 16, seed: UInt64(round))
        let guest = FaultingThread(memory.pages, order: order, everyNanoseconds: 1_000_000_000 / Self.pacePerSecond, isPlaced: true).join()
        try session.cancel()
        try guest.check()
        return guest.latencies
    }

    /// - Returns: the waits, and MB/s of all content.
    private func push(
        _ source: SourceProcess, _ memory: TwiceMappedMemory, isTouched: Bool, _ round: Int
    ) throws(BenchmarkError) -> (faults: LatencyRecorder, rate: Double) {
        try memory.rearm()
        let session = try begin(source, memory, SessionSettings(mode: .adaptive))
        var guest: FaultingThread?
        if isTouched {
            let order = TouchOrder.random(
                pageCount: memory.guest.pageCount, count: memory.guest.pageCount / 16, stride: 16, seed: UInt64(round) + 100)
            guest = FaultingThread(
                memory.pages, order: order, everyNanoseconds: 1_000_000_000 / Self.pacePerSecond, isPlaced: true,
                until: { session.statistics.phase == .completed })
        }
        let statistics = try session.complete()
        let touched = guest?.join()
        try touched?.check()
        return (touched?.latencies ?? LatencyRecorder(), Double(memory.guest.lengthBytes) / statistics.transferSeconds / 1e6)
    }
}
