import Demonstration
import HostMemory
import PageCore
import PageEngine
import PageFerry
import PageSimulation
import PageWire

/// `bench pattern`: how many touches wait for the wire, and what is fetched in vain, by pattern: synthetic ones and recorded
/// traces, with adaptive windows beside blocks of 64 KiB, nothing pushed; on the simulator and on real memory.
struct PatternBenchmark {
    private static let memoryBytes = 128 << 20
    /// The guest's own time from one touch to the next.
    private static let everyNanoseconds: UInt64 = 5_000
    private static let fixedBytes = 64 << 10

    private let context: BenchmarkContext

    init(_ context: BenchmarkContext) { self.context = context }

    func run() throws(BenchmarkError) -> BenchmarkResult {
        var context = context
        context.rounds = min(context.rounds, 3)
        var result = BenchmarkResult(
            name: "pattern", title: "Windows by pattern of touches, no push, a touch every \(Self.everyNanoseconds / 1_000) us",
            rounds: context.rounds)
        let traces = try RecordedTrace.all(in: context.tracesPath)
        let layout = try orBenchmarkError {
            try RegionLayout([RegionDescription(name: "memory", lengthBytes: Self.memoryBytes, pageSize: .fourKiB)])
        }
        simulate(layout, traces, &result)
        try measure(layout, traces, context, &result)
        result.notes = [
            "A network fault is a touch of a page that is not here: of those on their way too. Their share is of the pages touched; the share fetched in vain of the pages sent.",
            "Simulated: 10 Gbit/s, 50 us there and back; a seed and one thread, so every round is the same. Real: pageferry source over TCP loopback, adaptive waiting.",
            "A replayed trace is its own: the second run of the same work. Of traces every page that was needed is touched once, in order, without pauses of the program.",
        ]
        if traces.isEmpty { result.notes.append("No traces: give their directory with --traces (perf/traces in the source tree).") }
        return result
    }

    // MARK: On the simulator

    private func simulate(_ layout: RegionLayout, _ traces: [RecordedTrace], _ result: inout BenchmarkResult) {
        var host = PatternSimulation.Host()
        host.thinkNanoseconds = Int(Self.everyNanoseconds)
        let fixed = WindowPolicy(windowBytes: Self.fixedBytes)
        for pattern in TouchPattern.standard {
            let touches = pattern.touches(pageCount: layout.totalPages, seed: 1)
            let outcome = PatternSimulation.run(touches, layout: layout, policy: .adaptive(), host: host)
            let blocks = PatternSimulation.run(touches, layout: layout, policy: fixed, host: host)
            add(
                "simulated, \(pattern.name)", PatternRow(pattern), [PatternOutcome(outcome)], [PatternOutcome(blocks)], &result)
        }
        for trace in traces {
            let outcome = PatternSimulation.run(trace.touches, layout: trace.layout, policy: .adaptive(), host: host)
            let blocks = PatternSimulation.run(trace.touches, layout: trace.layout, policy: fixed, host: host)
            let second = PatternSimulation.run(
                trace.touches, layout: trace.layout, policy: .adaptive(), host: host, replaying: trace.trace)
            let name = "simulated, trace \(trace.name)"
            add(name, .trace, [PatternOutcome(outcome)], [PatternOutcome(blocks)], &result)
            addReplay(name, [PatternOutcome(outcome)], [PatternOutcome(second)], &result)
        }
    }

    // MARK: On real memory

    private func measure(
        _ layout: RegionLayout, _ traces: [RecordedTrace], _ context: BenchmarkContext, _ result: inout BenchmarkResult
    ) throws(BenchmarkError) {
        let largest = max(layout.totalBytes, traces.map(\.layout.totalBytes).max() ?? 0)
        let image = try BenchmarkImage(lengthBytes: largest)
        let memory = try TwiceMappedMemory(lengthBytes: largest)
        let source = try SourceProcess(executablePath: context.executablePath, memory: image.file, kind: .tcp, mode: .adaptive)
        var work: [(name: String, row: PatternRow, touches: [PageIndex], trace: PageTrace?)] = TouchPattern.standard.map {
            ("real, \($0.name)", PatternRow($0), $0.touches(pageCount: layout.totalPages, seed: 1), nil)
        }
        // The session's memory is the largest of all, so a trace of a smaller one is replayed in the same place.
        for trace in traces where trace.layout.count == 1 {
            let runs = trace.trace.runs
            let whole = PageTrace(regions: [.init(pageSize: .fourKiB, pageCount: largest >> PageSize.fourKiB.shift)], runs: runs)
            work.append(("real, trace \(trace.name)", .trace, trace.touches, whole))
        }
        var outcomes: [String: [PatternOutcome]] = [:]
        _ = try context.interleave("pattern") { (round, _) throws(BenchmarkError) in
            for item in work {
                var runs: [(String, SessionSettings)] = [
                    ("adaptive", SessionSettings(mode: .adaptive, creditBytes: 0)),
                    ("fixed", SessionSettings(mode: .adaptive, windowBytes: Self.fixedBytes, creditBytes: 0)),
                ]
                if let trace = item.trace { runs.append(("replay", SessionSettings(mode: .adaptive, creditBytes: 0, replay: trace))) }
                for (kind, settings) in runs {
                    let outcome = try touch(item.touches, source, memory, settings)
                    if round > 0 { outcomes["\(item.name) \(kind)", default: []].append(outcome) }
                }
            }
        }
        for item in work {
            let adaptive = outcomes["\(item.name) adaptive"] ?? []
            add(item.name, item.row, adaptive, outcomes["\(item.name) fixed"] ?? [], &result)
            if item.trace != nil { addReplay(item.name, adaptive, outcomes["\(item.name) replay"] ?? [], &result) }
        }
    }

    private func touch(
        _ touches: [PageIndex], _ source: SourceProcess, _ memory: TwiceMappedMemory, _ settings: SessionSettings
    ) throws(BenchmarkError) -> PatternOutcome {
        try memory.rearm()
        let session = try MeasuredSession(to: source.address, regions: [try memory.handOver()], settings)
        let guest = FaultingThread(memory.pages, order: touches, everyNanoseconds: Self.everyNanoseconds).join()
        let statistics = try session.cancel()
        try guest.check()
        return PatternOutcome(statistics, touched: Set(touches).count, nanoseconds: guest.endNanoseconds - guest.startNanoseconds)
    }

    // MARK: Rows

    private func add(
        _ name: String, _ row: PatternRow, _ adaptive: [PatternOutcome], _ fixed: [PatternOutcome], _ result: inout BenchmarkResult
    ) {
        result.figures.append(
            Figure("\(name): network faults", unit: "%", adaptive.map(\.networkPercent), bound: row.mostNetworkPercent.map { .atMost($0) }))
        result.figures.append(
            Figure("  with blocks of 64 KiB", unit: "%", fixed.map(\.networkPercent)))
        result.figures.append(
            Figure("  fetched in vain", unit: "%", adaptive.map(\.unusedPercent), bound: row.mostUnusedPercent.map { .atMost($0) }))
        result.figures.append(
            Figure("  faults answered here", unit: "%", adaptive.map(\.localPercent)))
        result.figures.append(
            Figure("  the whole pattern", unit: "ms", adaptive.map(\.milliseconds), against: "blocks of 64 KiB", fixed.map(\.milliseconds)))
    }

    private func addReplay(_ name: String, _ first: [PatternOutcome], _ second: [PatternOutcome], _ result: inout BenchmarkResult) {
        result.figures.append(
            Figure(
                "  replayed: network faults", unit: "faults", second.map(\.networkFaults), against: "the first run",
                first.map(\.networkFaults), bound: .atMost(0.05)))
    }
}

/// What is promised of a pattern.
private struct PatternRow {
    var mostNetworkPercent: Double?
    var mostUnusedPercent: Double?

    static let trace = PatternRow(mostNetworkPercent: 21, mostUnusedPercent: nil)

    init(mostNetworkPercent: Double?, mostUnusedPercent: Double?) {
        self.mostNetworkPercent = mostNetworkPercent
        self.mostUnusedPercent = mostUnusedPercent
    }

    init(_ pattern: TouchPattern) {
        mostNetworkPercent = pattern.isRegular ? 3 : nil
        mostUnusedPercent = pattern == .uniform ? 10 : nil
    }
}

/// What one run over a pattern met.
private struct PatternOutcome {
    var networkFaults: Double
    var networkPercent: Double
    var localPercent: Double
    var unusedPercent: Double
    var milliseconds: Double

    init(_ outcome: PatternSimulation.Outcome) {
        networkFaults = Double(outcome.networkFaults)
        networkPercent = outcome.networkFaultPercent
        localPercent = outcome.touchedPages == 0 ? 0 : 100 * Double(outcome.localFaults) / Double(outcome.touchedPages)
        unusedPercent = outcome.unusedPercent
        milliseconds = Double(outcome.elapsedNanoseconds) / 1e6
    }

    init(_ statistics: SessionStatistics, touched: Int, nanoseconds: UInt64) {
        let sent = Double(statistics.counts.demand + statistics.counts.window)
        networkFaults = Double(statistics.networkFaults)
        networkPercent = 100 * networkFaults / Double(touched)
        localPercent = 100 * Double(statistics.faults - statistics.networkFaults) / Double(touched)
        unusedPercent = 100 * (sent - Double(touched)) / sent
        milliseconds = Double(nanoseconds) / 1e6
    }
}
