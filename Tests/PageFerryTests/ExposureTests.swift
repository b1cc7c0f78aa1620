import Glibc
import HostMemory
import PageCore
import PageWire
import TestSupport
import Testing
import Verbs
import VerbsTransport

@testable import PageFerry

/// A source's registration, mended when its memory changed between being registered and being final.
@Suite(.leavesNothing, .serialized, .enabled(if: Link.rdmaAddress != nil)) struct ExposureTests {
    private let pages = 256

    /// A domain on the test's device: that of a connection to nobody is enough.
    private func domain() throws -> ProtectionDomain {
        var listener = try VerbsListener(on: VerbsAddress(host: Link.rdmaAddress!, port: 0))
        let address = listener.address
        let connector = DedicatedThread(name: "connect") {
            _ = try? VerbsConnection.connect(to: address, timeoutNanoseconds: 10_000_000_000)
        }
        let request = try #require(try listener.nextRequest(timeoutNanoseconds: 10_000_000_000))
        try request.accept(timeoutNanoseconds: 10_000_000_000)
        connector.join()
        return request.domain
    }

    private struct Source {
        let file: Int32
        let image: SourceImage
    }

    private func makeSource() throws -> Source {
        let file = try MemoryFile.create(name: "exposure", lengthBytes: pages << 12)
        let mapping = try MappedMemory(of: file, lengthBytes: pages << 12, access: .readWrite)
        memset(mapping.pointer, 1, 128 << 12)
        let image = try SourceImage([
            SourceRegionDescriptor(
                name: "memory", descriptor: fcntl(file.rawValue, F_DUPFD_CLOEXEC, 3), fileOffset: 0, lengthBytes: pages << 12)
        ])
        return Source(file: fcntl(file.rawValue, F_DUPFD_CLOEXEC, 3), image: image)
    }

    private func covered(_ exposure: SourceExposure) -> Set<Int> {
        exposure.keys.reduce(into: Set<Int>()) { set, key in for page in key.range.first..<key.range.end { set.insert(page) } }
    }

    @Test func onlyDataIsRegistered() throws {
        let source = try makeSource()
        defer { close(source.file) }
        let exposure = try SourceExposure(source.image, domain: try domain())
        #expect(covered(exposure) == Set(0..<128))
        // Registering allocates: holes must have stayed holes.
        #expect(try HoleMap(of: source.image.regions[0].file, fileOffset: 0, pageCount: pages, pageSize: .fourKiB).holes == [128..<256])
    }

    @Test func aPagePunchedAndWrittenAgainIsRegisteredAnew() throws {
        let source = try makeSource()
        defer { close(source.file) }
        let exposure = try SourceExposure(source.image, domain: try domain())
        let before = exposure.keys
        #expect(
            try {
                try exposure.refresh(); return exposure.keys
            }() == before, "nothing changed: nothing is done again")
        // The guest gives a page up and touches it again: another page than the one that was pinned.
        try source.image.regions[0].file.punchHole((5 << 12)..<(6 << 12))
        var word: UInt64 = 7
        #expect(pwrite(source.file, &word, 8, 5 << 12) == 8)
        try exposure.refresh()
        #expect(exposure.keys != before)
        #expect(covered(exposure) == Set(0..<128))
        // The pinned page is the file's again.
        let local = try #require(exposure.local(PageRange(region: 0, first: 5, count: 1)))
        #expect(UnsafePointer<UInt64>(bitPattern: local.address)?.pointee == 7)
    }

    @Test func whatIsWrittenMeanwhileIsAdded() throws {
        let source = try makeSource()
        defer { close(source.file) }
        let exposure = try SourceExposure(source.image, domain: try domain())
        var word: UInt64 = 9
        for page in [200, 255] { #expect(pwrite(source.file, &word, 8, off_t(page << 12)) == 8) }
        try exposure.refresh()
        #expect(covered(exposure).isSuperset(of: Set(0..<128).union([200, 255])))
        #expect(exposure.keys.map(\.range.first) == exposure.keys.map(\.range.first).sorted())
    }

    @Test func rangesAreSubtractedInOrder() {
        #expect(SourceExposure.subtract([], from: [0..<4]) == [0..<4])
        #expect(SourceExposure.subtract([0..<4], from: [0..<4]) == [])
        #expect(SourceExposure.subtract([1..<2, 3..<9], from: [0..<4, 8..<12]) == [0..<1, 2..<3, 9..<12])
        #expect(SourceExposure.subtract([0..<100], from: [2..<3, 5..<6]) == [])
        #expect(SourceExposure.subtract([4..<5], from: [0..<2, 6..<8]) == [0..<2, 6..<8])
    }
}
