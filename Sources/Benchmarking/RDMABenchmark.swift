import Demonstration
import Glibc
import PageCore
import PageFerry
import Verbs

/// RDMA against the physical floor and the community's own benchmarks, all in the same interleaved rounds on one host.
public struct RDMABenchmark {
    public struct Configuration: Sendable {
        /// This very program.
        public var executablePath: String
        public var rounds = 5
        public var lengthBytes = 64 << 20
        public var touches = 10_000
        /// The device; nil takes the first with an IPv4 address.
        public var device: String?
        /// How long the destination spins for its next event.
        public var spinNanoseconds: UInt64 = 50_000

        public init(executablePath: String) { self.executablePath = executablePath }
    }

    /// Everything measured; the schema is `pageferry.bench.rdma/1`.
    public struct Report: Sendable, Codable {
        public var schema = "pageferry.bench.rdma/1"
        public var machine: MachineDescription
        public var device: String
        public var figures: [Figure]
        public var ratios: [Ratio]
        /// perftest's own lines, a round each.
        public var perftest: [String]
    }

    private let configuration: Configuration
    private let progress: (String) -> Void

    public init(_ configuration: Configuration, progress: @escaping (String) -> Void) {
        self.configuration = configuration
        self.progress = progress
    }

    public func run() throws(BenchmarkError) -> Report {
        let (device, host) = try findDevice()
        let image = try BenchmarkImage(lengthBytes: configuration.lengthBytes)
        var rounds = Rounds()
        for round in 0..<configuration.rounds {
            progress("round \(round + 1) of \(configuration.rounds)")
            try faults(&rounds, Perftest(device: device, host: host), host, image, UInt64(round))
            try pushes(&rounds, Perftest(device: device, host: host), host, image)
        }
        return report(rounds, device)
    }

    private struct Rounds {
        var readLatency: [Double] = []
        var floor: [Double] = []
        var fault: [Double] = []
        /// From the event read to the page made visible.
        var daemon: [Double] = []
        var faultTCP: [Double] = []
        var sourceProcessor: [Double] = []
        var sourceProcessorTCP: [Double] = []
        var readBandwidth: [Double] = []
        var writeBandwidth: [Double] = []
        var pushRead: [Double] = []
        var pushWrite: [Double] = []
        var perftest: [String] = []
    }

    private func findDevice() throws(BenchmarkError) -> (name: String, host: String) {
        do throws(VerbsError) {
            for device in try DeviceDescription.all() where configuration.device == nil || configuration.device == device.name {
                if let address = device.addresses.first { return (device.name, address) }
            }
        } catch { throw BenchmarkError(error.description) }
        throw BenchmarkError("this host has no RDMA device with an IPv4 address; `make bench-rdma` brings one")
    }

    private func session(_ transport: TransportChoice, _ host: String, _ push: PushMethod = .read) -> SessionRun {
        var configuration = SessionRun.Configuration(executablePath: configuration.executablePath)
        configuration.transport = transport
        configuration.host = host
        configuration.session.push = push
        configuration.session.spinNanoseconds = self.configuration.spinNanoseconds
        return SessionRun(configuration: configuration)
    }

    private func faults(
        _ rounds: inout Rounds, _ perftest: Perftest, _ host: String, _ image: borrowing BenchmarkImage, _ seed: UInt64
    ) throws(BenchmarkError) {
        let latency = try perftest.readLatency(bytes: 4096, iterations: 1000)
        rounds.readLatency.append(latency.microseconds)
        rounds.perftest.append("ib_read_lat -s 4096: \(latency.line)")
        rounds.floor.append(Self.median(try FaultFloor.run(touches: configuration.touches, pageCount: image.pageCount, seed: seed)))
        let rdma = try session(.rdma, host).touch(configuration.touches, image: image, seed: seed)
        rounds.fault.append(Self.median(rdma.touches))
        rounds.daemon.append(Double(rdma.statistics.latency.p50Nanoseconds) / 1e3)
        rounds.sourceProcessor.append(Double(rdma.sourceProcessorNanoseconds) / 1e6)
        let tcp = try session(.tcp, host).touch(configuration.touches, image: image, seed: seed)
        rounds.faultTCP.append(Self.median(tcp.touches))
        rounds.sourceProcessorTCP.append(Double(tcp.sourceProcessorNanoseconds) / 1e6)
    }

    private func pushes(
        _ rounds: inout Rounds, _ perftest: Perftest, _ host: String, _ image: borrowing BenchmarkImage
    ) throws(BenchmarkError) {
        let iterations = configuration.lengthBytes / 65_536
        for (tool, isRead) in [("ib_read_bw", true), ("ib_write_bw", false)] {
            let result = try perftest.bandwidth(tool, bytes: 65_536, iterations: iterations)
            if isRead { rounds.readBandwidth.append(result.mebibytesPerSecond) } else { rounds.writeBandwidth.append(result.mebibytesPerSecond) }
            rounds.perftest.append("\(tool) -s 65536: \(result.line)")
        }
        for method in PushMethod.allCases {
            let outcome = try session(.rdma, host, method).push(image: image)
            let statistics = outcome.statistics
            guard let start = statistics.guestStoppedNanoseconds, let end = statistics.lastPageNanoseconds else {
                throw BenchmarkError("the push by \(method.rawValue) did not complete")
            }
            let rate = Double(configuration.lengthBytes) / Double(1 << 20) / (Double(end - start) / 1e9)
            if method == .read { rounds.pushRead.append(rate) } else { rounds.pushWrite.append(rate) }
        }
    }

    private static func median(_ nanoseconds: [UInt64]) -> Double {
        Figure.percentile(nanoseconds.map { Double($0) / 1e3 }, 50)
    }

    private func report(_ rounds: Rounds, _ device: String) -> Report {
        let floors = zip(rounds.readLatency, rounds.floor).map { $0 + $1 }
        let best = zip(rounds.readBandwidth, rounds.writeBandwidth).map { max($0, $1) }
        func over(_ values: [Double], _ base: [Double]) -> [Double] { zip(values, base).map { $0 / $1 } }
        let touches = "\(configuration.touches) demanded pages"
        return Report(
            machine: .current, device: device,
            figures: [
                Figure("ib_read_lat, 4 KiB", unit: "us", values: rounds.readLatency),
                Figure("bare userfaultfd resolve", unit: "us", values: rounds.floor),
                Figure("demand fault over RDMA, median of \(touches)", unit: "us", values: rounds.fault),
                Figure("  of it from the event read to the page visible", unit: "us", values: rounds.daemon),
                Figure("demand fault over TCP, median of \(touches)", unit: "us", values: rounds.faultTCP),
                Figure("source's processor time, \(touches), RDMA", unit: "ms", values: rounds.sourceProcessor),
                Figure("source's processor time, \(touches), TCP", unit: "ms", values: rounds.sourceProcessorTCP),
                Figure("ib_read_bw, 64 KiB", unit: "MiB/s", values: rounds.readBandwidth),
                Figure("ib_write_bw, 64 KiB", unit: "MiB/s", values: rounds.writeBandwidth),
                Figure("push by reads", unit: "MiB/s", values: rounds.pushRead),
                Figure("push by writes", unit: "MiB/s", values: rounds.pushWrite),
            ],
            ratios: [
                Ratio("demand fault / (ib_read_lat + floor)", values: over(rounds.fault, floors), bound: .atMost(1.3)),
                Ratio("push by reads / better of perftest", values: over(rounds.pushRead, best), bound: .atLeast(0.85)),
                Ratio("push by writes / better of perftest", values: over(rounds.pushWrite, best)),
                Ratio("source's processor time, RDMA / TCP", values: over(rounds.sourceProcessor, rounds.sourceProcessorTCP)),
            ],
            perftest: rounds.perftest)
    }
}
