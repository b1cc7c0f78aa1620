import Demonstration
import HostMemory
import PageCore
import PageFerry
import Verbs

/// `bench rdma`: demand faults and the push over RDMA against the floor and the RDMA community's own benchmarks, all in the same
/// interleaved rounds on one host.
struct RDMABenchmark {
    private static let memoryBytes = 64 << 20
    private static let faultCount = 10_000
    private static let passFaultCount = 2_500
    private static let passesPerRound = 3
    private static let perftestBytes = 65_536

    private let context: BenchmarkContext

    init(_ context: BenchmarkContext) { self.context = context }

    /// The sides that are compared.
    private struct Sides {
        var perftest: Perftest
        var memory: TwiceMappedMemory
        var sources: [TransportChoice: SourceProcess]
    }

    func run() throws(BenchmarkError) -> BenchmarkResult {
        let (device, host) = try findDevice()
        var result = BenchmarkResult(name: "rdma", title: "Over RDMA, device \(device), against perftest", rounds: context.rounds)
        let image = try BenchmarkImage(lengthBytes: Self.memoryBytes)
        var sides = Sides(
            perftest: Perftest(device: device, host: host), memory: try TwiceMappedMemory(lengthBytes: Self.memoryBytes), sources: [:])
        for transport in [TransportChoice.tcp, .rdma] {
            sides.sources[transport] = try Placement.source.run { () throws(BenchmarkError) in
                try SourceProcess(
                    executablePath: context.executablePath, memory: image.file, kind: .tcp, mode: .adaptive, transport: transport,
                    host: host)
            }
        }
        var lines: [String] = []
        let ledger = try context.interleave("rdma") { (round, ledger) throws(BenchmarkError) in
            try latencies(sides, round, &ledger, &lines)
            try processorTimes(sides, round, &ledger)
            try pushes(sides, round, &ledger, &lines)
        }
        result.figures = figures(ledger)
        result.notes = lines
        return result
    }

    private func findDevice() throws(BenchmarkError) -> (name: String, host: String) {
        do throws(VerbsError) {
            for device in try DeviceDescription.all() where context.device == nil || context.device == device.name {
                if let address = device.addresses.first { return (device.name, address) }
            }
        } catch { throw BenchmarkError(error.description) }
        throw BenchmarkError("this host has no RDMA device with an IPv4 address\(context.device.map { " of the name \($0)" } ?? "")")
    }

    // MARK: Rounds

    /// Latencies, in short passes close to each other: an emulated host's speed changes by half within seconds.
    private func latencies(
        _ sides: borrowing Sides, _ round: Int, _ ledger: inout RoundLedger, _ lines: inout [String]
    ) throws(BenchmarkError) {
        for pass in 0..<Self.passesPerRound {
            let latency = try sides.perftest.readLatency(bytes: PageSize.fourKiB.bytes, iterations: 1_000)
            ledger.record("ib_read_lat", latency.microseconds)
            if round > 0 { lines.append("ib_read_lat -s 4096: \(latency.line)") }
            let seed = round * Self.passesPerRound + pass
            let floor = try Floors.userfault(sides.memory, .busy, count: Self.passFaultCount, round: seed)
            ledger.record("floor", floor.microseconds(50))
            let measured = try faults(sides, .rdma, count: Self.passFaultCount, seed: seed)
            ledger.record("rdma fault", measured.guestMicroseconds)
            ledger.record("rdma daemon", measured.daemonMicroseconds)
        }
    }

    private func processorTimes(_ sides: borrowing Sides, _ round: Int, _ ledger: inout RoundLedger) throws(BenchmarkError) {
        for transport in [TransportChoice.rdma, .tcp] {
            let measured = try faults(sides, transport, count: Self.faultCount, seed: round)
            ledger.record("\(transport) source", measured.sourceMilliseconds)
            if transport == .tcp { ledger.record("tcp fault", measured.guestMicroseconds) }
        }
    }

    private struct Measured {
        var guestMicroseconds: Double
        var daemonMicroseconds: Double
        var sourceMilliseconds: Double
    }

    /// One session in which one thread touches `count` random pages, each fetched alone.
    private func faults(
        _ sides: borrowing Sides, _ transport: TransportChoice, count: Int, seed: Int
    ) throws(BenchmarkError) -> Measured {
        let source = sides.sources[transport]!
        try sides.memory.rearm()
        let handedOver = [try sides.memory.handOver()]
        let session = try Placement.destination.run { () throws(BenchmarkError) in
            try MeasuredSession(
                to: source.address, regions: handedOver,
                SessionSettings(mode: .adaptive, windowBytes: PageSize.fourKiB.bytes, creditBytes: 0, transport: transport))
        }
        let order = TouchOrder.random(pageCount: sides.memory.guest.pageCount, count: count, seed: UInt64(seed))
        let processorStart = ProcessorTime.nanoseconds(of: source.processIdentifier)
        let guest = FaultingThread(sides.memory.pages, order: order, isPlaced: true).join()
        let processor = ProcessorTime.nanoseconds(of: source.processIdentifier) - processorStart
        let statistics = try session.cancel()
        try guest.check()
        return Measured(
            guestMicroseconds: guest.latencies.microseconds(50),
            daemonMicroseconds: Double(statistics.latency.p50Nanoseconds) / 1e3, sourceMilliseconds: Double(processor) / 1e6)
    }

    private func pushes(
        _ sides: borrowing Sides, _ round: Int, _ ledger: inout RoundLedger, _ lines: inout [String]
    ) throws(BenchmarkError) {
        var best = 0.0
        for tool in ["ib_read_bw", "ib_write_bw"] {
            let result = try sides.perftest.bandwidth(tool, bytes: Self.perftestBytes, iterations: Self.memoryBytes / Self.perftestBytes)
            if round > 0 { lines.append("\(tool) -s \(Self.perftestBytes): \(result.line)") }
            best = max(best, result.mebibytesPerSecond)
        }
        ledger.record("perftest", best)
        for method in PushMethod.allCases {
            try sides.memory.rearm()
            let session = try MeasuredSession(
                to: sides.sources[.rdma]!.address, regions: [try sides.memory.handOver()],
                SessionSettings(mode: .adaptive, transport: .rdma, push: method))
            let statistics = try session.complete()
            ledger.record("push \(method.rawValue)", Double(Self.memoryBytes >> 20) / statistics.transferSeconds)
        }
    }

    private func figures(_ ledger: RoundLedger) -> [Figure] {
        [
            Figure(
                "demand fault over RDMA, p50", unit: "us", ledger["rdma fault"], against: "ib_read_lat + userfaultfd",
                ledger.sum("ib_read_lat", "floor"), bound: .atMost(1.3)),
            Figure(
                "  of it from event read to page visible", unit: "us", ledger["rdma daemon"], against: "ib_read_lat", ledger["ib_read_lat"]),
            Figure("demand fault over TCP, p50", unit: "us", ledger["tcp fault"]),
            Figure(
                "source's processor time, \(Self.faultCount) faults", unit: "ms", ledger["rdma source"], against: "over TCP",
                ledger["tcp source"]),
            Figure(
                "push by reads", unit: "MiB/s", ledger["push read"], against: "the better of ib_read_bw and ib_write_bw",
                ledger["perftest"],
                bound: .atLeast(0.85)),
            Figure(
                "push by writes", unit: "MiB/s", ledger["push write"], against: "the better of ib_read_bw and ib_write_bw",
                ledger["perftest"]),
        ]
    }
}
