import Glibc
import PageCore
import PageEngine
import PageFerry
import StreamTransport

/// Post-copy without a VMM: one process serves a memory file, this one takes it in while its own threads use it.
public struct MemoryDemonstration {
    public struct Configuration: Sendable {
        public var lengthBytes = 1 << 30
        /// This very program: it is also the source.
        public var executablePath: String
        public var seed: UInt64 = 1
        public var session = DestinationSession.Configuration()
        public var bulkLanes = 2
        public var transport = TransportChoice.tcp
        /// An address of this host to listen on; nil takes a unix socket, which RDMA cannot.
        public var host: String?
        /// Where another host serves a `MemoryImage` of the same length; nil makes and serves one here.
        public var sourceAddress: String?

        public init(executablePath: String) {
            self.executablePath = executablePath
            // Nobody starts its source again.
            session.pauseNanoseconds = 0
        }
    }

    public struct Report: Sendable, Codable {
        public var kind: MemoryKind
        public var bytes: Int
        /// From the first fault the source could answer to the last page.
        public var lastPageMilliseconds: Double
        public var faults: Int
        public var faultP50Microseconds: Double
        public var faultP99Microseconds: Double
        public var faultMaxMicroseconds: Double
        /// How often the link was lost, and found again.
        public var lostLinks: Int
        public var demandPages: Int
        public var windowPages: Int
        public var pushPages: Int
        public var zeroPages: Int
        public var contentBytes: Int
        public var threads: [AccessReport]
        /// Pages compared byte by byte once all were here, and those that were wrong.
        public var verifiedPages: Int
        public var wrongPages: Int

        public var isRight: Bool {
            wrongPages == 0 && threads.allSatisfy { $0.wrongPages == 0 }
                && demandPages + windowPages + pushPages + zeroPages == verifiedPages
        }
    }

    private let configuration: Configuration

    public init(_ configuration: Configuration) { self.configuration = configuration }

    /// Moves one kind of memory, and compares every byte.
    public func run(_ kind: MemoryKind) throws(DemonstrationError) -> Report {
        if let address = configuration.sourceAddress { return try run(kind, from: address) }
        let image = try MemoryImage(lengthBytes: configuration.lengthBytes)
        let address = configuration.host.map { "\($0):\(20_000 + getpid() % 20_000)" } ?? "unix:\(image.path).sock"
        let source = try ChildProcess([
            configuration.executablePath, "source", "--memory", image.path, "--listen", address, "--sessions", "1",
            "--transport", configuration.transport.rawValue, "--insecure",
        ])
        let report = try run(kind, from: address)
        _ = consume source
        return report
    }

    private func run(_ kind: MemoryKind, from address: String) throws(DemonstrationError) -> Report {
        let host = try MemoryHost(kind: kind, lengthBytes: configuration.lengthBytes)
        let start = MonotonicClock.nowNanoseconds()
        let accessors = MemoryAccessors(host.memory, keeping: host)
        let statistics = try move(host, from: address, accessors)
        let threads = accessors.finish()
        let wrongPages = (0..<host.memory.pageCount).count { !host.memory.isRight($0, version: 1) }
        return report(kind, statistics, start, threads, wrongPages, host.memory.pageCount)
    }

    private func move(
        _ host: MemoryHost, from address: String, _ accessors: MemoryAccessors
    ) throws(DemonstrationError) -> SessionStatistics {
        let notices = Mailbox<DestinationNotice>()
        let region = try host.handOver()
        let session: DestinationSession
        do throws(SessionError) {
            let regions = try DestinationRegions([region])
            let connector = try connect(address)
            try connector.prefault(regions, deadlineNanoseconds: MonotonicClock.nowNanoseconds() + 10_000_000_000)
            let opened = try connector.accept(regions)
            session = DestinationSession(
                opened, regions: regions, machineState: nil, configuration: configuration.session
            ) { notices.post($0) }
        } catch {
            throw DemonstrationError(error.description)
        }
        accessors.start(seed: configuration.seed)
        while let notice = notices.next() {
            guard case .ended(let reason) = notice else { continue }
            session.join()
            if let reason { throw DemonstrationError(reason.description) }
            break
        }
        return session.statistics.read()
    }

    /// The source needs a moment to map its file and listen.
    private func connect(_ address: String) throws(SessionError) -> DestinationConnector {
        let deadline = MonotonicClock.nowNanoseconds() + 10_000_000_000
        var connection = DestinationConnector.Configuration()
        connection.bulkLanes = configuration.bulkLanes
        // Either side may run under emulation, from a file system that another guest is just reading too.
        connection.connectTimeoutNanoseconds = 60_000_000_000
        connection.stepTimeoutNanoseconds = 60_000_000_000
        connection.transport = configuration.transport
        connection.push = configuration.session.push
        while true {
            do throws(SessionError) {
                return try DestinationConnector(to: try parse(address), configuration: connection)
            } catch {
                guard case .cannotConnect = error, MonotonicClock.nowNanoseconds() < deadline else { throw error }
                _ = poll(nil, 0, 5)
            }
        }
    }

    private func parse(_ address: String) throws(SessionError) -> StreamAddress {
        do throws(StreamError) { return try StreamAddress(parsing: address) } catch { throw .cannotConnect(error.description) }
    }

    private func report(
        _ kind: MemoryKind, _ statistics: SessionStatistics, _ start: UInt64, _ threads: [AccessReport], _ wrongPages: Int,
        _ pageCount: Int
    ) -> Report {
        let first = statistics.guestStoppedNanoseconds ?? start
        let last = statistics.lastPageNanoseconds ?? first
        return Report(
            kind: kind, bytes: configuration.lengthBytes, lastPageMilliseconds: Double(last - first) / 1e6,
            faults: statistics.faults, faultP50Microseconds: Double(statistics.latency.p50Nanoseconds) / 1e3,
            faultP99Microseconds: Double(statistics.latency.p99Nanoseconds) / 1e3,
            faultMaxMicroseconds: Double(statistics.latency.maxNanoseconds) / 1e3, lostLinks: statistics.pauseCount,
            demandPages: statistics.counts.demand, windowPages: statistics.counts.window, pushPages: statistics.counts.push,
            zeroPages: statistics.counts.zero,
            contentBytes: statistics.counts.contentBytes, threads: threads, verifiedPages: pageCount, wrongPages: wrongPages)
    }
}
