import Glibc
import PageCore
import Synchronization
import TestSupport
import Testing

@testable import PageFerry

/// Memory whose pages are made when somebody wants them.
@Suite(.leavesNothing, .serialized, .enabled(if: sessionsArePossible)) struct GeneratedImageTests {
    private static let pages = 1024

    private func layout(_ pageSize: PageSize = .fourKiB, pages: Int = Self.pages) throws -> RegionLayout {
        try RegionLayout([RegionDescription(name: "memory", lengthBytes: pages * pageSize.bytes, pageSize: pageSize)])
    }

    /// Which pages were asked for, and how often.
    private final class Requests: Sendable {
        let counts = Mutex([Int](repeating: 0, count: pages))

        func fill(_ pages: PageRange, _ bytes: inout MutableRawSpan) {
            for page in pages.first..<pages.end {
                counts.withLock { $0[page] += 1 }
                // What is left alone is zero.
                if Content.isZero(page) { continue }
                let content = UnsafeRawBufferPointer(start: Content.bytes(page), count: 4096)
                for word in 0..<512 {
                    bytes.storeBytes(
                        of: content.load(fromByteOffset: 8 * word, as: UInt64.self), toByteOffset: (page - pages.first) << 12 + 8 * word,
                        as: UInt64.self)
                }
            }
        }
    }

    /// Two destinations: each page is made once, and comes as it was made.
    @Test func eachPageIsMadeOnce() throws {
        let requests = Requests()
        let source = try LocalSource(try SourceImage(generating: try layout()) { requests.fill($0, &$1) }, name: "generated")
        defer { source.stop() }
        for kind in [GuestKind.shared, .anonymous] {
            let guest = try Guest(kind, pages: Self.pages)
            let destination = try LocalDestination(guest, from: source.address)
            let readers = guest.startReaders(count: 2, seed: 3)
            #expect(try destination.end() == nil)
            guest.release()
            #expect(readers.join() == 0)
            #expect(destination.session.statistics.read().counts.zero > 0, "what was left alone crosses as zeros")
        }
        #expect(requests.counts.withLock { $0 } == [Int](repeating: 1, count: Self.pages))
    }

    /// Of a destination that takes what it needs, only that and its windows are made.
    @Test func onlyWhatIsWantedIsMade() throws {
        let requests = Requests()
        let source = try LocalSource(try SourceImage(generating: try layout()) { requests.fill($0, &$1) }, name: "wanted")
        defer { source.stop() }
        let guest = try Guest(.shared, pages: Self.pages)
        let destination = try LocalDestination(guest, from: source.address) { $0.creditBytes = 0 }
        #expect(guest.words.isRight(500))
        destination.session.end(.cancelled)
        _ = try destination.end()
        guest.release()
        let made = requests.counts.withLock { $0.count { $0 > 0 } }
        #expect((1...64).contains(made), "\(made) pages")
    }

    @Test func hugePagesNeedNoneSetAside() throws {
        let image = try SourceImage(generating: try layout(.twoMiB, pages: 2)) { pages, bytes in
            #expect(pages.count == 1 && bytes.byteCount == 2 << 20)
            bytes.storeBytes(of: UInt64(pages.first + 1), toByteOffset: bytes.byteCount - 8, as: UInt64.self)
        }
        let memory = try SourceMemory(image)
        for page in [1, 0] {
            let bytes = memory.bytes(of: PageRange(region: 0, first: page, count: 1))
            #expect(bytes.load(fromByteOffset: bytes.count - 8, as: UInt64.self) == UInt64(page + 1))
        }
    }
}
