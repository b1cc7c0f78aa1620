import Glibc
import HostMemory
import PageCore
import StreamTransport
import Synchronization
import Testing
import Uring
import Userfault

@testable import PageFerry

/// Whether this host lets the tests have userfaultfds and rings; prints the reason when not.
let sessionsArePossible: Bool = {
    do {
        _ = try UserfaultDescriptor.supportedFeatures()
        guard try RingSupport.probe().isSufficient else {
            print("skipped: this kernel's io_uring lacks operations the transport needs")
            return false
        }
        return true
    } catch {
        print("skipped: \(error)")
        return false
    }
}()

/// Polls `condition` for half a minute at most.
func poll(until condition: () -> Bool) -> Bool {
    for _ in 0..<15_000 {
        if condition() { return true }
        _ = Glibc.poll(nil, 0, 2)
    }
    return condition()
}

/// A path for a socket of this process; nothing of it is left when its listener has gone.
func socketPath(_ name: String) -> String { "/tmp/pf-session-test.\(getpid()).\(name)" }

/// What each page of the source holds: holes, zeros that were written, and data in which every word differs.
enum Content {
    static func isHole(_ page: Int) -> Bool { mixed(page) % 16 < 2 }
    static func isZero(_ page: Int) -> Bool { mixed(page) % 16 < 4 }

    /// The 4 KiB that piece `piece` of the memory holds: pieces of one random table, at an offset of their own each.
    static func bytes(_ piece: Int) -> UnsafeRawPointer {
        UnsafeRawPointer(table) + (piece &* 40_503) % (tableBytes / 8) * 8
    }

    nonisolated(unsafe) static let zeros = UnsafeRawPointer(
        UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 8).initializeMemory(as: UInt8.self, repeating: 0, count: 4096))
    /// What a rewritten page holds.
    nonisolated(unsafe) static let rewritten = UnsafeRawPointer(
        UnsafeMutableRawPointer.allocate(byteCount: 4096, alignment: 8).initializeMemory(as: UInt8.self, repeating: 0x5A, count: 4096))

    private static let tableBytes = 1 << 20
    /// Never freed: tests look into it until the process ends.
    nonisolated(unsafe) private static let table: UnsafeMutablePointer<UInt64> = {
        let words = (tableBytes + 4096) / 8
        let table = UnsafeMutablePointer<UInt64>.allocate(capacity: words)
        var random = SeededRandom(seed: 99)
        for index in 0..<words { table[index] = random.next() }
        return table
    }()

    private static func mixed(_ page: Int) -> UInt64 {
        var random = SeededRandom(seed: UInt64(page))
        return random.next()
    }
}

/// How a page must look.
enum Expectation { case content, zero, rewritten }

/// Words of memory, compared with what they must be. Valid for as long as the memory behind it is mapped.
struct Words: @unchecked Sendable {
    let base: UnsafeMutablePointer<UInt64>
    let pageBytes: Int
    /// The memory's first page lies this many pages behind the first address, and those that have no room there before it.
    private let rotation: Int
    private let pages: Int

    init(_ address: UInt, _ pageSize: PageSize, rotation: Int = 0, pages: Int = .max) {
        base = UnsafeMutablePointer(bitPattern: address)!
        pageBytes = pageSize.bytes
        self.rotation = rotation
        self.pages = pages
    }

    private func words(_ page: Int, _ piece: Int) -> UnsafeMutablePointer<UInt64> {
        base + (page + rotation) % pages * (pageBytes / 8) + piece * 512
    }

    func address(_ page: Int) -> UnsafeMutableRawPointer { UnsafeMutableRawPointer(words(page, 0)) }

    /// Fills a page.
    func write(_ page: Int, _ expectation: Expectation = .content) {
        for piece in 0..<(pageBytes / 4096) {
            memcpy(words(page, piece), expected(page, piece, expectation), 4096)
        }
    }

    func isRight(_ page: Int, _ expectation: Expectation = .content) -> Bool {
        (0..<(pageBytes / 4096)).allSatisfy { piece in
            memcmp(words(page, piece), expected(page, piece, expectation), 4096) == 0
        }
    }

    /// Whether each word of a page is as it was or zero: freed at any moment, also while it came.
    func isRightOrFreed(_ page: Int) -> Bool {
        if isRight(page) || isRight(page, .zero) { return true }
        return (0..<(pageBytes / 4096)).allSatisfy { piece in
            let seen = words(page, piece)
            let wanted = expected(page, piece, .content).assumingMemoryBound(to: UInt64.self)
            return (0..<512).allSatisfy { index in
                let word = seen[index]
                return word == wanted[index] || word == 0
            }
        }
    }

    private func expected(_ page: Int, _ piece: Int, _ expectation: Expectation) -> UnsafeRawPointer {
        switch expectation {
        case .content: Content.isZero(page) ? Content.zeros : Content.bytes(page * (pageBytes / 4096) + piece)
        case .zero: Content.zeros
        case .rewritten: Content.rewritten
        }
    }
}

enum GuestKind: String, CaseIterable, Sendable {
    case shared, anonymous, hugePages
    /// One region of anonymous memory in two runs of addresses, the later one first.
    case anonymousPieces

    var pageSize: PageSize { self == .hugePages ? .twoMiB : .fourKiB }
}

/// A source's memory: a memfd with the pattern.
func makeImage(pages: Int, pageSize: PageSize = .fourKiB) throws -> SourceImage {
    let image = try SourceImage([makeRegion("memory", pages: pages, pageSize: pageSize)])
    try image.findHoles()
    return image
}

/// A source's memory in several regions, each with the pattern.
func makeImage(regions: Int, pages: Int) throws -> SourceImage {
    let image = try SourceImage((0..<regions).map { try makeRegion("memory\($0)", pages: pages, pageSize: .fourKiB) })
    try image.findHoles()
    return image
}

private func makeRegion(_ name: String, pages: Int, pageSize: PageSize) throws -> SourceRegionDescriptor {
    let file = try MemoryFile.create(name: "session-test", lengthBytes: pages * pageSize.bytes, pageSize: pageSize)
    let mapping = try MappedMemory(of: file, lengthBytes: pages * pageSize.bytes, access: .readWrite)
    let words = Words(mapping.address, pageSize)
    for page in 0..<pages where !Content.isHole(page) {
        words.write(page)
    }
    withExtendedLifetime(mapping) {}
    return SourceRegionDescriptor(
        name: name, descriptor: fcntl(file.rawValue, F_DUPFD_CLOEXEC, 3), fileOffset: 0, lengthBytes: pages * pageSize.bytes)
}

/// Memory as a VMM has it: mapped, registered, its userfaultfd kept open here as well.
final class Guest: @unchecked Sendable {
    let kind: GuestKind
    let pages: Int
    let address: UInt
    let words: Words
    private let mapping: MappedMemory
    private let file: MemoryFile?
    private let firstPieceBytes: Int
    let userfault: UserfaultDescriptor

    /// - Parameter events: what the VMM has asked its userfaultfd to tell beside removals.
    init(_ kind: GuestKind, pages: Int, events: UserfaultFeatures = []) throws {
        self.kind = kind
        self.pages = pages
        let lengthBytes = pages * kind.pageSize.bytes
        if kind == .anonymous || kind == .anonymousPieces {
            let mapping = try MappedMemory(anonymousBytes: lengthBytes)
            userfault = try UserfaultDescriptor(required: events.union(.removeEvents))
            try userfault.register(address: mapping.address, lengthBytes: lengthBytes, modes: .missing)
            file = nil
            address = mapping.address
            self.mapping = mapping
        } else {
            let created = try MemoryFile.create(name: "session-guest", lengthBytes: lengthBytes, pageSize: kind.pageSize)
            let mapping = try MappedMemory(of: created, lengthBytes: lengthBytes, access: .readWrite)
            let features: UserfaultFeatures = kind == .hugePages ? .hugetlbfs : .sharedMemory
            userfault = try UserfaultDescriptor(required: features.union(events).union(.removeEvents))
            try userfault.register(address: mapping.address, lengthBytes: lengthBytes, modes: [.missing, .minor])
            file = consume created
            address = mapping.address
            self.mapping = mapping
        }
        firstPieceBytes = kind == .anonymousPieces ? lengthBytes / 3 & -kind.pageSize.bytes : lengthBytes
        words = Words(address, kind.pageSize, rotation: (lengthBytes - firstPieceBytes) / kind.pageSize.bytes, pages: pages)
    }

    deinit { release() }

    /// Where the region lies, in the order of its pages.
    private var pieces: [DestinationRegion.Piece] {
        let rest = mapping.lengthBytes - firstPieceBytes
        if rest == 0 { return [.init(guestAddress: address, lengthBytes: firstPieceBytes)] }
        return [
            .init(guestAddress: address + UInt(rest), lengthBytes: firstPieceBytes), .init(guestAddress: address, lengthBytes: rest),
        ]
    }

    /// Ends every wait: what is missing reads as zero.
    func release() { try? userfault.unregister(address: address, lengthBytes: mapping.lengthBytes) }

    /// - Parameter child: the userfaultfd of a child whose memory is handed over in place of this process's.
    func handOver(child: Int32? = nil) throws -> DestinationRegion {
        let descriptor = try child ?? userfault.duplicated().release()
        var backing: DestinationRegion.Backing?
        if let copy = try file?.duplicated().release() { backing = .init(descriptor: copy, fileOffset: 0) }
        return DestinationRegion(
            name: "memory", pieces: pieces, pageSize: kind.pageSize, userfault: descriptor, backing: backing)
    }

    /// Gives pages up, as a balloon does. Returns once the session has read the event.
    func remove(_ range: Range<Int>) -> Bool {
        let seam = firstPieceBytes / words.pageBytes
        return [range.clamped(to: 0..<seam), range.clamped(to: seam..<max(pages, seam))].allSatisfy { $0.isEmpty || removePiece($0) }
    }

    /// Frees pages of the memory's file, of which no event tells: what QEMU's balloon does before it gives 4 KiB pages up, and all
    /// that it does with huge ones.
    func punch(_ range: Range<Int>) throws {
        try file?.punchHole(range.lowerBound * words.pageBytes..<range.upperBound * words.pageBytes)
    }

    /// The pages that the memory's file holds.
    func allocatedPages() throws -> [PageIndex] {
        let holes = try HoleMap(of: file!, fileOffset: 0, pageCount: pages, pageSize: kind.pageSize).holes
        return (0..<pages).filter { page in !holes.contains { $0.contains(page) } }
    }

    /// Leaves bytes in pages of the memory's file, which no mapping of the guest's shows yet.
    func scribble(_ numbers: [Int]) throws {
        guard file != nil else { return }
        let mapping = try MappedMemory(of: file!, lengthBytes: pages * words.pageBytes, access: .readWrite)
        for page in numbers { memset(mapping.pointer + page * words.pageBytes, 0xA5, words.pageBytes) }
    }

    private func removePiece(_ range: Range<Int>) -> Bool {
        while madvise(
            words.address(range.lowerBound), range.count * words.pageBytes, file == nil ? MADV_DONTNEED : MADV_REMOVE) != 0
        {
            guard errno == EAGAIN || errno == EINTR else { return false }
        }
        return true
    }

    /// Threads that compare pages in random orders, all pages each.
    func startReaders(count: Int, seed: UInt64) -> Readers { Readers(self, count: count, seed: seed) }
}

final class Readers: Sendable {
    private let wrong = Atomic<Int>(0)
    private let threads = Mutex<[DedicatedThread]>([])

    init(_ guest: Guest, count: Int, seed: UInt64) {
        for number in 0..<count {
            let thread = DedicatedThread(name: "reader\(number)") { [self] in
                var random = SeededRandom(seed: seed &+ UInt64(number))
                for page in (0..<guest.pages).shuffled(using: &random) where !guest.words.isRight(page) {
                    wrong.add(1, ordering: .relaxed)
                }
            }
            threads.withLock { $0.append(thread) }
        }
    }

    /// Waits for all.
    ///
    /// - Returns: how many pages were seen with anything but their content.
    func join() -> Int {
        for thread in threads.withLock({ $0 }) { thread.join() }
        return wrong.load(ordering: .acquiring)
    }
}

/// A thread that reads one byte of a page and keeps what it saw.
final class WaitingThread: Sendable {
    private let result = Atomic<Int>(-1)
    private let thread = Mutex<DedicatedThread?>(nil)

    init(_ guest: Guest, page: Int) {
        let started = DedicatedThread(name: "waiting") { [self] in
            result.store(guest.words.isRight(page) ? 1 : 0, ordering: .releasing)
        }
        thread.withLock { $0 = started }
    }

    /// Whether the page's content was right; nil while the thread waits.
    var sawContent: Bool? {
        let value = result.load(ordering: .acquiring)
        return value < 0 ? nil : value == 1
    }

    func join() { thread.withLock { $0.take() }?.join() }
}
