import Glibc
import HostMemory
import PageCore
import PageFerry

/// `bench cpu`: what both sides use of the processor, moving and waiting.
struct ProcessorBenchmark {
    private static let memoryBytes = 512 << 20
    private static let idleSeconds = 1.0

    private let context: BenchmarkContext

    init(_ context: BenchmarkContext) { self.context = context }

    func run() throws(BenchmarkError) -> BenchmarkResult {
        var result = BenchmarkResult(name: "cpu", title: "Processor time, TCP loopback, default settings", rounds: context.rounds)
        let image = try BenchmarkImage(lengthBytes: Self.memoryBytes)
        let memory = try TwiceMappedMemory(lengthBytes: Self.memoryBytes)
        let floor = StreamFloor(source: try image.mapped())
        let source = try SourceProcess(executablePath: context.executablePath, memory: image.file, kind: .tcp, mode: .adaptive)
        let gibibytes = Double(Self.memoryBytes) / Double(1 << 30)
        let ledger = try context.interleave("cpu") { (_, ledger) throws(BenchmarkError) in
            try memory.unmapGuest()
            ledger.record("floor", try floor.measure(.tcp, into: memory, streams: 1).processorSeconds / gibibytes)
            try memory.rearm()
            let session = try MeasuredSession(to: source.address, regions: [try memory.handOver()], SessionSettings(mode: .adaptive))
            let moving = Usage(source)
            try session.complete()
            let moved = moving.elapsed()
            ledger.record("source", moved.source / gibibytes)
            ledger.record("destination", moved.destination / gibibytes)
            try idle(source, memory, &ledger)
        }
        let both = ledger.sum("source", "destination")
        result.figures = [
            Figure("source and destination", unit: "s/GiB", both, against: "one bare stream", ledger["floor"]),
            Figure("source", unit: "s/GiB", ledger["source"]), Figure("destination", unit: "s/GiB", ledger["destination"]),
            Figure("source, session idle", unit: "% of a core", ledger["idle source"], bound: .atMost(1)),
            Figure("destination, session idle", unit: "% of a core", ledger["idle destination"], bound: .atMost(1)),
        ]
        result.notes = ["Against QEMU's own processor time: `make compare`."]
        return result
    }

    /// A session whose guest touches nothing and whose source pushes nothing.
    private func idle(_ source: SourceProcess, _ memory: TwiceMappedMemory, _ ledger: inout RoundLedger) throws(BenchmarkError) {
        try memory.rearm()
        let session = try MeasuredSession(
            to: source.address, regions: [try memory.handOver()], SessionSettings(mode: .adaptive, creditBytes: 0))
        let waiting = Usage(source)
        guard !session.hasEnded(withinNanoseconds: UInt64(Self.idleSeconds * 1e9)) else { throw BenchmarkError("an idle session ended") }
        let used = waiting.elapsed()
        ledger.record("idle source", used.source / used.seconds * 100)
        ledger.record("idle destination", used.destination / used.seconds * 100)
        try session.cancel()
    }

    /// Processor seconds of both processes from its making on. This process runs nothing but the session meanwhile.
    private struct Usage {
        private let source: SourceProcess
        private let sourceStart: UInt64
        private let destinationStart: UInt64
        private let start: UInt64

        init(_ source: SourceProcess) {
            self.source = source
            sourceStart = ProcessorTime.nanoseconds(of: source.processIdentifier)
            destinationStart = ProcessorTime.nanoseconds(of: getpid())
            start = MonotonicClock.nowNanoseconds()
        }

        func elapsed() -> (source: Double, destination: Double, seconds: Double) {
            (
                Double(ProcessorTime.nanoseconds(of: source.processIdentifier) - sourceStart) / 1e9,
                Double(ProcessorTime.nanoseconds(of: getpid()) - destinationStart) / 1e9,
                Double(MonotonicClock.nowNanoseconds() - start) / 1e9
            )
        }
    }
}
