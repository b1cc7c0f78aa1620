import Demonstration
import HostMemory
import PageCore
import PageFerry

/// `bench fault`: one thread touches pages in random order, nothing else goes on; the whole stack in two processes, against the
/// sum of the floors of the same round.
struct FaultBenchmark {
    private static let memoryBytes = 128 << 20
    private static let faultCount = 2_000
    /// Every touch lies in a window of its own, whatever the window's size.
    private static let pagesApart = 16

    private let context: BenchmarkContext

    init(_ context: BenchmarkContext) { self.context = context }

    func run() throws(BenchmarkError) -> BenchmarkResult {
        var result = BenchmarkResult(
            name: "fault", title: "A demand fault on an idle session: one thread, random pages, no push", rounds: context.rounds)
        let image = try BenchmarkImage(lengthBytes: Self.memoryBytes)
        let memory = try TwiceMappedMemory(lengthBytes: Self.memoryBytes)
        var sources: [(SocketKind, WaitMode, SourceProcess)] = []
        for kind in SocketKind.allCases {
            for mode in WaitMode.extremes {
                let source = try Placement.source.run(mode) { () throws(BenchmarkError) in
                    try SourceProcess(executablePath: context.executablePath, memory: image.file, kind: kind, mode: mode)
                }
                sources.append((kind, mode, source))
            }
        }
        var latencies: [String: LatencyRecorder] = [:]
        let ledger = try context.interleave("fault") { (round, ledger) throws(BenchmarkError) in
            func record(_ name: String, _ recorder: LatencyRecorder) {
                ledger.record("\(name) p50", recorder.microseconds(50))
                ledger.record("\(name) p99", recorder.microseconds(99))
                if round > 0 { latencies[name, default: LatencyRecorder()].add(recorder) }
            }
            for mode in WaitMode.extremes {
                record("userfaultfd \(mode)", try Floors.userfault(memory, mode, count: Self.faultCount, round: round))
            }
            for (kind, mode, source) in sources {
                record("wire \(kind) \(mode)", try PingPongFloor.measure(kind, mode, count: Self.faultCount))
                record("bare resolver \(kind) \(mode)", try bareResolver(image, memory, kind, mode, round))
                for windowBytes in [4 << 10, 64 << 10] {
                    let name = "\(kind) \(mode) \(windowBytes >> 10)K"
                    let (latencies, inDaemon) = try faults(source, memory, mode, windowBytes: windowBytes, round: round)
                    record(name, latencies)
                    ledger.record("\(name) daemon", Double(inDaemon.p50Nanoseconds) / 1_000)
                }
            }
        }
        result.figures = figures(ledger)
        result.distributions = latencies.sorted { $0.key < $1.key }.map { Distribution($0.key, $0.value) }
        result.notes = [
            "With 3 cores or more the guest's thread, the destination and the source keep to processors of their own, in floors and sessions alike; with 2, and where nobody spins, the destination does.",
            "The floor is the bare userfaultfd resolve plus the bare 16 B to 4 KiB exchange, each measured in the same round.",
        ]
        return result
    }

    private func bareResolver(
        _ image: BenchmarkImage, _ memory: TwiceMappedMemory, _ kind: SocketKind, _ mode: WaitMode, _ round: Int
    ) throws(BenchmarkError) -> LatencyRecorder {
        try memory.rearm()
        let resolver = try BareResolver(memory, source: try image.mapped(), kind: kind, mode: mode)
        let guest = FaultingThread(memory.pages, order: order(memory, round), isPlaced: true, mode: mode).join()
        resolver.stop()
        try guest.check()
        return guest.latencies
    }

    private func order(_ memory: TwiceMappedMemory, _ round: Int) -> [PageIndex] {
        TouchOrder.random(pageCount: memory.guest.pageCount, count: Self.faultCount, stride: Self.pagesApart, seed: UInt64(round))
    }

    private func faults(
        _ source: SourceProcess, _ memory: TwiceMappedMemory, _ mode: WaitMode, windowBytes: Int, round: Int
    ) throws(BenchmarkError) -> (LatencyRecorder, inDaemon: FaultLatency) {
        try memory.rearm()
        let session = try Placement.destination.run(mode) { () throws(BenchmarkError) in
            try MeasuredSession(
                to: source.address, regions: [try memory.handOver()],
                SessionSettings(mode: mode, windowBytes: windowBytes, creditBytes: 0, bulkLanes: 1))
        }
        let guest = FaultingThread(memory.pages, order: order(memory, round), isPlaced: true, mode: mode).join()
        let statistics = try session.cancel()
        try guest.check()
        return (guest.latencies, statistics.latency)
    }

    private func figures(_ ledger: RoundLedger) -> [Figure] {
        var figures: [Figure] = []
        for kind in SocketKind.allCases {
            for mode in WaitMode.extremes {
                for window in ["4K", "64K"] {
                    for percentile in ["p50", "p99"] {
                        let name = "\(kind) \(mode) \(window) \(percentile)"
                        let floor = ledger.sum("userfaultfd \(mode) \(percentile)", "wire \(kind) \(mode) \(percentile)")
                        // What issue and README promise: pages of 4 KiB over TCP.
                        let bound: Bound? =
                            switch (kind, mode, percentile) {
                            case (.tcp, _, "p50") where window == "4K": .atMost(1.25)
                            case (.tcp, .busy, "p99") where window == "4K": .atMost(2)
                            default: nil
                            }
                        figures.append(
                            Figure(
                                "\(kind), \(mode), window \(window), \(percentile)", unit: "us", ledger[name],
                                against: "userfaultfd + exchange", floor,
                                bound: bound))
                    }
                    let name = "\(kind) \(mode) \(window)"
                    for percentile in ["p50", "p99"] {
                        figures.append(
                            Figure(
                                "  \(percentile), against one thread at either end", unit: "us", ledger["\(name) \(percentile)"],
                                against: "bare resolver over the same wire", ledger["bare resolver \(kind) \(mode) \(percentile)"]))
                    }
                    figures.append(
                        Figure(
                            "  of it from event read to page visible, p50", unit: "us", ledger["\(name) daemon"],
                            against: "the exchange alone",
                            ledger["wire \(kind) \(mode) p50"]))
                }
            }
        }
        return figures
    }
}
