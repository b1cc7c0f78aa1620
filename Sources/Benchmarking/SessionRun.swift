import CShims
import Demonstration
import Glibc
import HostMemory
import PageCore
import PageEngine
import PageFerry
import StreamTransport
import Userfault

/// One session through the whole real stack: a source of its own process serves a file, this process takes it in.
struct SessionRun {
    struct Configuration {
        /// This very program: it is also the source.
        var executablePath: String
        var transport = TransportChoice.tcp
        /// Where the source listens; nil takes a unix socket.
        var host: String?
        var bulkLanes = 2
        var session = DestinationSession.Configuration()
    }

    /// What one run measured.
    struct Outcome {
        /// Nanoseconds of each touch, in order; empty when nothing was touched.
        var touches: [UInt64]
        var statistics: SessionStatistics
        /// Processor time of the source process between the first touch and the last, or during the push.
        var sourceProcessorNanoseconds: UInt64
        var wallNanoseconds: UInt64
    }

    let configuration: Configuration

    /// Touches pages at random while nothing is pushed.
    func touch(_ count: Int, image: borrowing BenchmarkImage, seed: UInt64) throws(BenchmarkError) -> Outcome {
        var configuration = configuration
        configuration.session.creditBytes = 0
        configuration.session.window = WindowPolicy(windowBytes: PageSize.fourKiB.bytes)
        let pages = image.pageCount
        return try SessionRun(configuration: configuration).run(image) { address, _ in
            TouchSequence(pageCount: pages, seed: seed).time(count, in: address)
        }
    }

    /// Takes everything in while nobody touches anything.
    func push(image: borrowing BenchmarkImage) throws(BenchmarkError) -> Outcome {
        try run(image) { _, notices in
            while let notice = notices.next() {
                if case .allResident = notice { break }
                if case .ended = notice { break }
            }
            return []
        }
    }

    private func run(
        _ image: borrowing BenchmarkImage, _ body: (UInt, Mailbox<DestinationNotice>) -> [UInt64]
    ) throws(BenchmarkError) -> Outcome {
        do {
            let lengthBytes = image.pageCount << PageSize.fourKiB.shift
            let host = try SharedHost(lengthBytes: lengthBytes)
            let address = configuration.host.map { "\($0):\(20_000 + Int(getpid()) % 20_000)" } ?? "unix:\(image.path).sock"
            let source = try ChildProcess([
                configuration.executablePath, "source", "--memory", image.path, "--listen", address, "--sessions", "1",
                "--transport", configuration.transport.rawValue,
            ], outputPath: "/dev/null")
            let regions = try DestinationRegions([try host.handOver()])
            try regions.prefault(deadlineNanoseconds: .max)
            let notices = Mailbox<DestinationNotice>()
            let opened = try connect(try StreamAddress(parsing: address)).accept(regions)
            let session = DestinationSession(
                opened, regions: regions, machineState: nil, configuration: configuration.session) { notices.post($0) }
            try waitForStart(notices)
            let start = (MonotonicClock.nowNanoseconds(), ProcessorTime.nanoseconds(of: source.processIdentifier))
            let touches = body(host.address, notices)
            let wall = MonotonicClock.nowNanoseconds() - start.0
            let processor = ProcessorTime.nanoseconds(of: source.processIdentifier) &- start.1
            session.end(.cancelled)
            session.join()
            _ = consume source
            return Outcome(
                touches: touches, statistics: session.statistics.read(), sourceProcessorNanoseconds: processor,
                wallNanoseconds: wall)
        } catch {
            throw error as? BenchmarkError ?? BenchmarkError("\(error)")
        }
    }

    /// Waits until the source serves; over RDMA also until it has told where its memory is, which the first page waits for.
    private func waitForStart(_ notices: Mailbox<DestinationNotice>) throws(BenchmarkError) {
        while let notice = notices.next(deadlineNanoseconds: MonotonicClock.nowNanoseconds() + 30_000_000_000) {
            switch notice {
            case .guestStopped: return
            case .ended(let reason): throw BenchmarkError("the session ended: \(reason?.description ?? "no reason")")
            default: continue
            }
        }
        throw BenchmarkError("the source did not begin within 30 seconds")
    }

    private func connect(_ address: StreamAddress) throws(SessionError) -> DestinationConnector {
        let deadline = MonotonicClock.nowNanoseconds() + 10_000_000_000
        var connection = DestinationConnector.Configuration()
        connection.bulkLanes = configuration.bulkLanes
        connection.transport = configuration.transport
        connection.push = configuration.session.push
        while true {
            do throws(SessionError) {
                return try DestinationConnector(to: address, configuration: connection)
            } catch {
                guard case .cannotConnect = error, MonotonicClock.nowNanoseconds() < deadline else { throw error }
                _ = poll(nil, 0, 5)
            }
        }
    }
}

/// Memory of this process, as a VMM would hand it over.
struct SharedHost: ~Copyable {
    private let guest: MappedMemory
    private let file: MemoryFile
    private let userfault: UserfaultDescriptor

    init(lengthBytes: Int) throws {
        let file = try MemoryFile.create(name: "pageferry-bench", lengthBytes: lengthBytes)
        let guest = try MappedMemory(of: file, lengthBytes: lengthBytes, access: .readWrite)
        let userfault = try UserfaultDescriptor(required: [.missingSharedMemory, .minorSharedMemory])
        try userfault.register(address: guest.address, lengthBytes: lengthBytes, modes: [.missing, .minor])
        self.file = file
        self.guest = guest
        self.userfault = userfault
    }

    var address: UInt { guest.address }

    func handOver() throws -> DestinationRegion {
        DestinationRegion(
            name: "memory", guestAddress: guest.address, lengthBytes: guest.lengthBytes, pageSize: guest.pageSize,
            userfault: try userfault.duplicated().release(),
            backing: DestinationRegion.Backing(descriptor: try file.duplicated().release(), fileOffset: 0))
    }
}

/// What a process has spent on processors, its ended threads included (clock_getcpuclockid(3)).
enum ProcessorTime {
    static func nanoseconds(of process: pid_t) -> UInt64 {
        var clock = clockid_t()
        var time = timespec()
        // SAFETY: both calls fill the variables they are given.
        guard unsafe clock_getcpuclockid(process, &clock) == 0, unsafe clock_gettime(clock, &time) == 0 else { return 0 }
        return UInt64(time.tv_sec) * 1_000_000_000 + UInt64(time.tv_nsec)
    }
}
