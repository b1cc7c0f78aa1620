import Demonstration
import Foundation
import HostMemory
import PageCore
import PageFerry
import SecureStream

/// `bench secure`: what TLS on the lanes costs, beside the same session in the clear.
struct SecureBenchmark {
    private static let memoryBytes = 256 << 20
    private static let faultCount = 1_000
    /// Every touch lies in a window of its own.
    private static let pagesApart = 16
    private static let names = ["plain", "TLS"]

    private let context: BenchmarkContext

    init(_ context: BenchmarkContext) { self.context = context }

    func run() throws(BenchmarkError) -> BenchmarkResult {
        var result = BenchmarkResult(
            name: "secure", title: "Lanes over TLS 1.3 (a pre-shared key, AES-128-GCM) against plain ones, TCP loopback",
            rounds: context.rounds)
        let image = try BenchmarkImage(lengthBytes: Self.memoryBytes)
        let memory = try TwiceMappedMemory(lengthBytes: Self.memoryBytes)
        let keyPath = "\(image.file.path).psk"
        Leftovers.expect(keyPath)
        defer { Leftovers.remove(keyPath) }
        guard
            FileManager.default.createFile(
                atPath: keyPath, contents: Data((0..<32).map { _ in UInt8.random(in: 65...90) }), attributes: [.posixPermissions: 0o600])
        else { throw BenchmarkError("cannot write \(keyPath)") }
        let security = try orBenchmarkError { () throws(SessionError) in try LaneSecurity(.preSharedKey(path: keyPath), role: .client) }
        let sides: [(name: String, source: SourceProcess, security: LaneSecurity)] = [
            ("plain", try SourceProcess(executablePath: context.executablePath, memory: image.file, kind: .tcp, mode: .adaptive), .plain),
            (
                "TLS",
                try SourceProcess(
                    executablePath: context.executablePath, memory: image.file, kind: .tcp, mode: .adaptive,
                    security: ["--tls-psk", keyPath]),
                security
            ),
        ]
        let ledger = try context.interleave("secure") { (round, ledger) throws(BenchmarkError) in
            for (name, source, security) in sides {
                let latencies = try faults(source, memory, security, round)
                ledger.record("\(name) p50", latencies.microseconds(50))
                ledger.record("\(name) p99", latencies.microseconds(99))
                for lanes in [1, 4] { ledger.record("\(name) \(lanes)", try push(source, memory, security, lanes: lanes)) }
            }
        }
        for percentile in ["p50", "p99"] {
            result.figures.append(
                Figure(
                    "demand fault over TLS, \(percentile)", unit: "us", ledger["TLS \(percentile)"], against: "in the clear",
                    ledger["plain \(percentile)"]))
        }
        for lanes in [1, 4] {
            result.figures.append(
                Figure(
                    "push over TLS, \(lanes) bulk lane\(lanes > 1 ? "s" : "")", unit: "GB/s", ledger["TLS \(lanes)"],
                    against: "in the clear",
                    ledger["plain \(lanes)"]))
        }
        result.notes = ["A lane over TLS has a thread at either end that encrypts and decrypts; this host's kernel is not asked to."]
        return result
    }

    private func faults(
        _ source: SourceProcess, _ memory: TwiceMappedMemory, _ security: LaneSecurity, _ round: Int
    ) throws(BenchmarkError) -> LatencyRecorder {
        try memory.rearm()
        let session = try MeasuredSession(
            to: source.address, regions: [try memory.handOver()],
            SessionSettings(mode: .adaptive, windowBytes: 4 << 10, creditBytes: 0, bulkLanes: 1, security: security))
        let order = TouchOrder.random(
            pageCount: memory.guest.pageCount, count: Self.faultCount, stride: Self.pagesApart, seed: UInt64(round))
        let guest = FaultingThread(memory.pages, order: order).join()
        try session.cancel()
        try guest.check()
        return guest.latencies
    }

    /// - Returns: GB/s.
    private func push(
        _ source: SourceProcess, _ memory: TwiceMappedMemory, _ security: LaneSecurity, lanes: Int
    ) throws(BenchmarkError) -> Double {
        try memory.rearm()
        let session = try MeasuredSession(
            to: source.address, regions: [try memory.handOver()],
            SessionSettings(mode: .adaptive, bulkLanes: lanes, security: security))
        return Double(Self.memoryBytes) / (try session.complete()).transferSeconds / 1e9
    }
}
