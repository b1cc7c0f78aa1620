import Foundation
import Glibc
import HostMemory
import PageCore
import PageFerry
import StreamTransport
import TestSupport
import Testing
import Userfault
import Verbs

/// A source that is killed at any phase: the destination says so, and whoever waits for a page goes on waiting: it is never
/// fed zeros. Over every transport there is.
@Suite(.leavesNothing, .serialized, .enabled(if: access(Built.pageferry, X_OK) == 0)) struct KilledSourceTests {
    enum Phase: String, CaseIterable, Sendable { case offered, opened, demanding, pushing }

    /// Where sources listen: by RDMA where `PAGEFERRY_RDMA` names a device, else by TCP.
    static let addresses: [String] = {
        guard let name = getenv("PAGEFERRY_RDMA").map({ String(cString: $0) }), !name.isEmpty else {
            print("skipped: killed sources over RDMA; PAGEFERRY_RDMA names no device (`make test-rdma` brings one)")
            return ["127.0.0.1"]
        }
        return (try? DeviceDescription.all().first { $0.name == name })?.addresses.prefix(1).map { $0 } ?? []
    }()

    private static let pages = 16_384

    @Test(arguments: Phase.allCases, addresses) func killed(_ phase: Phase, _ host: String) throws {
        let scratch = try Scratch()
        let transport: TransportChoice = host == "127.0.0.1" ? .tcp : .rdma
        let memory = try scratch.memoryFile()
        let pattern = try Data(contentsOf: URL(filePath: memory))
        let file = try FileHandle(forWritingTo: URL(filePath: memory))
        for piece in 0..<((Self.pages << 12) / pattern.count) {
            try file.seek(toOffset: UInt64(piece * pattern.count))
            try file.write(contentsOf: pattern)
        }
        try file.close()
        let address = StreamAddress.tcp(host: host, port: UInt16.random(in: 20_000..<30_000))
        let source = try Program.pageferry(
            ["source", "--memory", memory, "--listen", "\(address)", "--transport", transport.rawValue, "--insecure"], in: scratch)
        let guest = try KilledGuest(pages: Self.pages)
        let connector = try connect(address, transport)
        if phase == .offered {
            kill(source.process, SIGKILL)
            do {
                _ = try connector.accept(guest.regions)
                Issue.record("a dead source accepts nothing")
            } catch {}
            return
        }
        let notices = Mailbox<DestinationNotice>()
        var configuration = DestinationSession.Configuration()
        configuration.pauseNanoseconds = 0
        if phase == .demanding { configuration.creditBytes = 0 }
        let opened = try connector.accept(guest.regions)
        let session = DestinationSession(opened, regions: guest.regions, machineState: nil, configuration: configuration) {
            notices.post($0)
        }
        if phase != .opened {
            #expect(guest.read(0) == guest.expected(0), "the session works before it is broken")
        }
        kill(source.process, SIGKILL)
        let reason = try end(notices)
        session.join()
        let statistics = session.statistics.read()
        // A push that was faster than the kill has nothing left to lose.
        if statistics.missingPages > 0 {
            #expect(reason != nil, "a broken session says so")
            let page = try #require((0..<Self.pages).first { !guest.isPresent($0) })
            let reader = KilledReader(guest, page)
            #expect(try guest.waitsForPage(), "the fault is raised, and nobody answers it")
            #expect(reader.word == nil, "whoever touches a missing page waits")
            guest.release()
            #expect(poll(until: { reader.word != nil }))
            reader.join()
        }
        guest.release()
    }

    private func connect(_ address: StreamAddress, _ transport: TransportChoice) throws -> DestinationConnector {
        var configuration = DestinationConnector.Configuration()
        configuration.transport = transport
        let deadline = MonotonicClock.nowNanoseconds() + 60 * seconds
        while true {
            do {
                return try DestinationConnector(to: address, configuration: configuration)
            } catch {
                guard case .cannotConnect = error, MonotonicClock.nowNanoseconds() < deadline else { throw error }
                _ = Glibc.poll(nil, 0, 5)
            }
        }
    }

    private func end(_ notices: Mailbox<DestinationNotice>) throws -> SessionError? {
        while let notice = notices.next(deadlineNanoseconds: MonotonicClock.nowNanoseconds() + 60 * seconds) {
            if case .ended(let reason) = notice { return reason }
        }
        throw NoEnd()
    }

    private struct NoEnd: Error {}
}

/// Shared memory of this process, registered and handed over, as a VMM's.
private final class KilledGuest: @unchecked Sendable {
    let regions: DestinationRegions
    private let mapping: MappedMemory
    private let file: MemoryFile
    private let userfault: UserfaultDescriptor

    init(pages: Int) throws {
        let created = try MemoryFile.create(name: "killed", lengthBytes: pages << 12)
        mapping = try MappedMemory(of: created, lengthBytes: pages << 12, access: .readWrite)
        userfault = try UserfaultDescriptor(required: .sharedMemory)
        try userfault.register(address: mapping.address, lengthBytes: pages << 12, modes: [.missing, .minor])
        regions = try DestinationRegions([
            DestinationRegion(
                name: "memory", guestAddress: mapping.address, lengthBytes: pages << 12, pageSize: .fourKiB,
                userfault: try userfault.duplicated().release(),
                backing: .init(descriptor: try created.duplicated().release(), fileOffset: 0))
        ])
        file = consume created
    }

    deinit { release() }

    func release() { try? userfault.unregister(address: mapping.address, lengthBytes: mapping.lengthBytes) }

    func read(_ page: Int) -> UInt8 { UnsafePointer<UInt8>(bitPattern: mapping.address + UInt(page << 12) + 1)!.pointee }

    func expected(_ page: Int) -> UInt8 {
        // A pattern of 1 MiB, repeated.
        let index = (page << 12 + 1) & ((1 << 20) - 1)
        return UInt8(truncatingIfNeeded: index &* 31 &+ index >> 12)
    }

    /// Whether a page is mapped where the guest looks (/proc/PID/pagemap, bit 63).
    func isPresent(_ page: Int) -> Bool {
        let descriptor = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC)
        defer { close(descriptor) }
        var entry: UInt64 = 0
        guard pread(descriptor, &entry, 8, off_t((Int(mapping.address >> 12) + page) * 8)) == 8 else { return true }
        return entry & (1 << 63) != 0
    }

    /// Whether a fault is raised within a minute.
    func waitsForPage() throws -> Bool { try userfault.waitForEvents(timeoutMilliseconds: 60_000) }
}

/// A thread that reads one byte of a page.
private final class KilledReader: Sendable {
    private let box = Box()
    private let thread: DedicatedThread

    private final class Box: @unchecked Sendable {
        private var lock = pthread_mutex_t()
        private var stored: UInt8?
        init() { pthread_mutex_init(&lock, nil) }
        var value: UInt8? {
            get { pthread_mutex_lock(&lock); defer { pthread_mutex_unlock(&lock) }; return stored }
            set { pthread_mutex_lock(&lock); defer { pthread_mutex_unlock(&lock) }; stored = newValue }
        }
    }

    init(_ guest: KilledGuest, _ page: Int) {
        let box = box
        thread = DedicatedThread(name: "reader") { box.value = guest.read(page) }
    }

    var word: UInt8? { box.value }
    func join() { thread.join() }
}
