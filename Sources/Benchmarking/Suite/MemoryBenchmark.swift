import Demonstration
import Glibc
import Handoff
import HostMemory
import NativeHandoff
import PageCore
import StreamTransport
import Userfault

/// `bench memory`: what the daemons occupy beside the guest's memory: both as processes of their own, the memory handed over
/// by this one as a VMM does.
struct MemoryBenchmark {
    /// Region sizes; beyond the first 512 MiB the larger one is empty, so that it fits this machine.
    private static let sizes = [512 << 20, 16 << 30]
    private static let dataBytes = 512 << 20
    private static let mostSeconds: UInt64 = 120

    private let context: BenchmarkContext

    init(_ context: BenchmarkContext) { self.context = context }

    func run() throws(BenchmarkError) -> BenchmarkResult {
        // The figure hardly varies: a round is a whole migration of each size.
        var context = context
        context.rounds = min(context.rounds, 3)
        var result = BenchmarkResult(
            name: "memory", title: "Resident memory of each daemon beside the guest's, the most of a session", rounds: context.rounds)
        let ledger = try context.interleave("memory") { (round, ledger) throws(BenchmarkError) in
            // Nothing warms up here.
            if round == 0 { return }
            for size in Self.sizes {
                let peak = try migrate(lengthBytes: size)
                ledger.record("source, \(size >> 20) MiB", peak.source)
                ledger.record("destination, \(size >> 20) MiB", peak.destination)
            }
        }
        for size in Self.sizes {
            let most = 24 + Double(size >> PageSize.fourKiB.shift) / Double(1 << 20)
            for side in ["source", "destination"] {
                let name = "\(side), \(size >> 20) MiB"
                result.figures.append(Figure(name, unit: "MiB", ledger[name], bound: .atMost(most)))
            }
        }
        result.notes = [
            "RssAnon + RssFile: the program, its libraries and everything it allocates; guest memory is RssShmem and not counted.",
            "The bound is 24 MiB and one byte a page. Of the larger region \(Self.dataBytes >> 20) MiB hold data.",
        ]
        return result
    }

    private func migrate(lengthBytes: Int) throws(BenchmarkError) -> (source: Double, destination: Double) {
        let image = try BenchmarkImage(lengthBytes: lengthBytes, dataBytes: min(lengthBytes, Self.dataBytes))
        let source = try SourceProcess(executablePath: context.executablePath, memory: image.file, kind: .unix, mode: .adaptive)
        let path = "\(image.file.path).handoff"
        Leftovers.expect(path)
        return try orBenchmarkError {
            let daemon = try ChildProcess(
                [
                    context.executablePath, "destination", "--connect", source.address.description, "--handoff", path, "--no-prefault",
                ], outputPath: "/dev/null")
            defer {
                daemon.end()
                Leftovers.remove(path)
            }
            let file = try MemoryFile.create(name: "pageferry-bench", lengthBytes: lengthBytes)
            let memory = try MappedMemory(of: file, lengthBytes: lengthBytes, access: .readWrite)
            var client = try connect(path, daemon)
            // Kept to the end, as a VMM keeps it.
            let userfault = try client.handOver(name: "ram", memory: memory, file: file)
            try client.ready()
            let peak = try watch(source, daemon)
            _ = consume userfault
            return peak
        }
    }

    /// The daemon needs a moment to listen.
    private func connect(_ path: String, _ daemon: ChildProcess) throws -> HandoffClient {
        let deadline = MonotonicClock.nowNanoseconds() + 10_000_000_000
        while true {
            do throws(HandoffError) {
                return try HandoffClient(path: path)
            } catch {
                guard case .nobodyListens = error, MonotonicClock.nowNanoseconds() < deadline else { throw error }
                if let code = daemon.waitForEnd(timeoutNanoseconds: 5_000_000) {
                    throw BenchmarkError("the destination ended with exit code \(code) before it listened")
                }
            }
        }
    }

    /// Looks at both processes until the destination has every page.
    private func watch(_ source: SourceProcess, _ daemon: ChildProcess) throws(BenchmarkError) -> (source: Double, destination: Double) {
        let deadline = MonotonicClock.nowNanoseconds() + Self.mostSeconds * 1_000_000_000
        var peak = (source: 0.0, destination: 0.0)
        while MonotonicClock.nowNanoseconds() < deadline {
            peak.source = max(peak.source, Self.residentMiB(source.processIdentifier))
            peak.destination = max(peak.destination, Self.residentMiB(daemon.processIdentifier))
            if let code = daemon.waitForEnd(timeoutNanoseconds: 1_000_000) {
                guard code == 0 else { throw BenchmarkError("the destination ended with exit code \(code)") }
                return peak
            }
        }
        throw BenchmarkError("the destination did not have every page after \(Self.mostSeconds) s")
    }

    private static func residentMiB(_ process: pid_t) -> Double {
        Double(ProcessFile.statusKiB("RssAnon", of: process) + ProcessFile.statusKiB("RssFile", of: process)) / 1_024
    }
}
