import Glibc
import HostMemory
import PageCore
import PageFerry
import StreamTransport
import Testing
import Userfault

/// A destination in this process for whatever a source serves: each region a file in memory, filled by a session.
final class PulledMemory {
    let layout: RegionLayout
    private let session: DestinationSession
    private let notices = Mailbox<DestinationNotice>()
    private var mappings: [UnsafeMutableRawBufferPointer] = []
    /// Kept until the end: with the last one the registration ends, and what is missing reads as zero.
    private var userfaults: [Int32] = []

    /// - Parameter creditBytes: 0 for nothing but what is demanded.
    init(from address: StreamAddress, creditBytes: Int? = nil, pauseNanoseconds: UInt64 = 0) throws {
        let connector = try DestinationConnector(to: address, configuration: DestinationConnector.Configuration())
        layout = connector.layout
        var handedOver: [DestinationRegion] = []
        for region in layout.regions {
            let file = try MemoryFile.create(name: "pulled", lengthBytes: region.lengthBytes, pageSize: region.pageSize)
            let mapping = mmap(nil, region.lengthBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file.rawValue, 0)
            let start = try #require(mapping != MAP_FAILED ? mapping : nil)
            mappings.append(UnsafeMutableRawBufferPointer(start: start, count: region.lengthBytes))
            let userfault = try UserfaultDescriptor(required: .sharedMemory)
            try userfault.register(address: UInt(bitPattern: start), lengthBytes: region.lengthBytes, modes: [.missing, .minor])
            handedOver.append(
                DestinationRegion(
                    name: region.name, guestAddress: UInt(bitPattern: start), lengthBytes: region.lengthBytes, pageSize: region.pageSize,
                    userfault: try userfault.duplicated().release(), backing: .init(descriptor: file.release(), fileOffset: 0)))
            userfaults.append(userfault.release())
        }
        let regions = try DestinationRegions(handedOver)
        let opened = try connector.accept(regions)
        var configuration = DestinationSession.Configuration()
        configuration.pauseNanoseconds = pauseNanoseconds
        if let creditBytes { configuration.creditBytes = creditBytes }
        let notices = notices
        session = DestinationSession(opened, regions: regions, machineState: nil, configuration: configuration) { notices.post($0) }
    }

    deinit {
        session.end(.cancelled)
        session.join()
        for userfault in userfaults { close(userfault) }
        for mapping in mappings { munmap(mapping.baseAddress, mapping.count) }
    }

    /// How the session ended; waits a minute at most.
    func end() throws -> SessionError? {
        let deadline = MonotonicClock.nowNanoseconds() + 60 * seconds
        while let notice = notices.next(deadlineNanoseconds: deadline) {
            if case .ended(let reason) = notice { return reason }
        }
        throw NoEnd()
    }

    struct NoEnd: Error {}

    var isPaused: Bool { session.statistics.read().phase == .postcopyPaused }

    /// Of the memory as it is here; waits for a page that is missing.
    func byte(region: Int, at offset: Int) -> UInt8 { mappings[region][offset] }

    /// Whether a part of a region holds `bytes`.
    func holds(_ bytes: [UInt8], region: Int, at offset: Int) -> Bool {
        precondition(offset >= 0 && offset + bytes.count <= mappings[region].count, "it lies in its region")
        return memcmp(mappings[region].baseAddress! + offset, bytes, bytes.count) == 0
    }
}
