import Demonstration
import HostMemory
import PageCore

/// `bench floor`: what kernel, wire and memory cost here without anything of ours.
struct FloorBenchmark {
    private static let faultCount = 4_000
    private static let exchangeCount = 4_000
    private static let streamBytes = 256 << 20

    private let context: BenchmarkContext

    init(_ context: BenchmarkContext) { self.context = context }

    func run() throws(BenchmarkError) -> BenchmarkResult {
        var result = BenchmarkResult(name: "floor", title: "What kernel, wire and memory cost by themselves", rounds: context.rounds)
        let memory = try TwiceMappedMemory(lengthBytes: Self.streamBytes)
        let source = try orBenchmarkError { try MappedMemory(anonymousBytes: Self.streamBytes) }
        try orBenchmarkError { try source.populate() }
        let stream = StreamFloor(source: source)
        var latencies: [String: LatencyRecorder] = [:]
        let ledger = try context.interleave("floor") { (round, ledger) throws(BenchmarkError) in
            func record(_ name: String, _ recorder: LatencyRecorder) {
                ledger.record("\(name), p50", recorder.microseconds(50))
                ledger.record("\(name), p99", recorder.microseconds(99))
                if round > 0 { latencies[name, default: LatencyRecorder()].add(recorder) }
            }
            for mode in WaitMode.extremes {
                record("userfaultfd resolve, \(mode)", try Floors.userfault(memory, mode, count: Self.faultCount, round: round))
                for kind in SocketKind.allCases {
                    record(
                        "16 B to 4 KiB over \(kind), \(mode)", try PingPongFloor.measure(kind, mode, count: Self.exchangeCount))
                }
            }
            record("16 B to 64 KiB over tcp, busy", try PingPongFloor.measure(.tcp, .busy, answerBytes: 64 << 10, count: 1_000))
            for kind in SocketKind.allCases {
                try memory.unmapGuest()
                let moved = try stream.measure(kind, into: memory, streams: 1)
                ledger.record("receive and CONTINUE over \(kind), one stream", Double(Self.streamBytes) / moved.seconds / 1e9)
            }
            ledger.record("memcpy", try CopyFloor.gigabytesPerSecond(lengthBytes: Self.streamBytes))
        }
        for name in ledger.names {
            result.figures.append(Figure(name, unit: name.contains(", p") ? "us" : "GB/s", ledger[name]))
        }
        result.distributions = latencies.sorted { $0.key < $1.key }.map { Distribution($0.key, $0.value) }
        return result
    }
}

/// Floors that several benchmarks measure in their rounds.
enum Floors {
    /// The bare resolve of `count` pages of `memory`, in random order.
    static func userfault(_ memory: TwiceMappedMemory, _ mode: WaitMode, count: Int, round: Int) throws(BenchmarkError) -> LatencyRecorder {
        try memory.unmapGuest()
        return try UserfaultFloor.measure(
            memory, order: TouchOrder.random(pageCount: memory.guest.pageCount, count: count, seed: UInt64(round)), mode: mode)
    }
}
