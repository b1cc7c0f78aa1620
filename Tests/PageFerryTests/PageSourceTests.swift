import Demonstration
import Glibc
import HostMemory
import PageCore
import PageEngine
import Synchronization
import TestSupport
import Testing

@testable import PageFerry

/// Pages of the tests' pattern that lie nowhere: they are made as they are asked for.
private final class MadePages: PageSource {
    let layout: RegionLayout
    /// Pages read, by sessions of all destinations.
    let readPages = Atomic<Int>(0)
    /// Whether pages can be had no more.
    let isGone = Atomic<Bool>(false)
    /// The page that cannot be read.
    private let badPage: Int?
    /// Whether it says of holes that they are zero.
    private let knowsHoles: Bool

    init(pages: Int, pageSize: PageSize = .fourKiB, badPage: Int? = nil, knowsHoles: Bool = true) throws {
        layout = try RegionLayout([try RegionDescription(name: "made", lengthBytes: pages * pageSize.bytes, pageSize: pageSize)])
        self.badPage = badPage
        self.knowsHoles = knowsHoles
    }

    static let gone = SessionError.memoryLost("the pages are gone")

    func knownZeros(in range: PageRange) -> PageRange? {
        guard knowsHoles, let first = (range.first..<range.end).first(where: Content.isHole) else { return nil }
        let end = (first..<range.end).first { !Content.isHole($0) } ?? range.end
        return PageRange(region: range.region, first: first, count: end - first)
    }

    func read(_ range: PageRange, into bytes: inout MutableRawSpan) throws(SessionError) {
        if let badPage, (range.first..<range.end).contains(badPage) { throw .memoryLost("page \(badPage) cannot be read") }
        if isGone.load(ordering: .acquiring) { throw Self.gone }
        readPages.add(range.count, ordering: .relaxed)
        let pieces = layout[range.region].pageSize.bytes / 4096
        bytes.withUnsafeMutableBytes { buffer in
            for page in range.first..<range.end {
                for piece in 0..<pieces {
                    let content = Content.isZero(page) ? Content.zeros : Content.bytes(page * pieces + piece)
                    memcpy(buffer.baseAddress! + ((page - range.first) * pieces + piece) * 4096, content, 4096)
                }
            }
        }
    }

    func verify() throws(SessionError) {
        if isGone.load(ordering: .acquiring) { throw Self.gone }
    }
}

/// Sessions that ask for their pages in place of mapping them; faults from the kernel, every byte compared.
@Suite(.leavesNothing, .serialized, .enabled(if: sessionsArePossible)) struct PageSourceTests {
    private func move(_ kind: GuestKind, pages: Int, bulkLanes: Int, knowsHoles: Bool = true) throws {
        let made = try MadePages(pages: pages, pageSize: kind.pageSize, knowsHoles: knowsHoles)
        let source = try LocalSource(pages: made, name: "made.\(kind).\(bulkLanes)")
        defer { source.stop() }
        let guest = try Guest(kind, pages: pages)
        let destination = try LocalDestination(guest, from: source.address, bulkLanes: bulkLanes)
        let readers = guest.startReaders(count: 3, seed: UInt64(pages))
        #expect(try destination.end() == nil)
        guest.release()
        #expect(readers.join() == 0)
        for page in 0..<pages where !guest.words.isRight(page) { Issue.record("page \(page) differs") }
        #expect(try #require(source.nextEnd()).reason == nil)
        let counts = destination.session.statistics.read().counts
        #expect(counts.demand + counts.window + counts.push + counts.zero == pages, "\(counts)")
        #expect(counts.contentBytes == (0..<pages).count { !Content.isZero($0) } * kind.pageSize.bytes, "zeros are found in what is read")
        let holes = knowsHoles ? (0..<pages).count { Content.isHole($0) } : 0
        #expect(made.readPages.load(ordering: .relaxed) >= pages - holes)
    }

    @Test(arguments: [GuestKind.shared, .anonymous], [0, 1, 4]) func everyPageIsAskedFor(_ kind: GuestKind, _ bulkLanes: Int) throws {
        try move(kind, pages: 4096, bulkLanes: bulkLanes)
    }

    /// Zeros lie between the pages of one read: what a frame leaves of it is not read again, and slots come back when all its frames do.
    @Test func whatWasReadIsReadOnce() throws {
        let pages = 1024
        let made = try MadePages(pages: pages, knowsHoles: false)
        var memory = try StagedMemory(made, mostRunBytes: 128 << 10)
        var lent: [UInt64] = []
        var page = 0
        while page < pages {
            let run = memory.classify(PageRange(region: 0, first: page, count: pages - page), mostScanned: 32)
            if run.kind == .data {
                let frame = memory.lend(PageRange(region: 0, first: page, count: run.count))
                #expect(memcmp(frame.bytes.baseAddress!, Content.bytes(page), 4096) == 0)
                lent.append(frame.token)
            }
            page += run.count
        }
        #expect(made.readPages.load(ordering: .relaxed) == pages)
        #expect(lent.count > pages / 32, "several frames of a read")
        for token in lent.shuffled() { memory.takeBack(token) }
        // Every slot can be had again, and no two are the same.
        var places = Set<UInt>()
        while memory.hasRoom(forPush: false) {
            let page = places.count * 32 % pages
            let first = (page..<pages).first { !Content.isZero($0) }!
            _ = memory.classify(PageRange(region: 0, first: first, count: 1), mostScanned: 1)
            let frame = memory.lend(PageRange(region: 0, first: first, count: 1))
            try #require(places.insert(UInt(bitPattern: frame.bytes.baseAddress!)).inserted)
        }
        #expect(places.count == 64)
    }

    @Test func zerosNobodyKnowsOf() throws { try move(.anonymous, pages: 2048, bulkLanes: 2, knowsHoles: false) }

    @Test func hugePages() throws {
        guard let reserve = HugePageReserve(count: 12) else { return }
        try move(.hugePages, pages: 10, bulkLanes: 2)
        _ = consume reserve
    }

    @Test func severalDestinations() throws {
        let pages = 1024
        let source = try LocalSource(pages: try MadePages(pages: pages), name: "made.several")
        defer { source.stop() }
        let guests = try [GuestKind.shared, .anonymous, .shared].map { try Guest($0, pages: pages) }
        let destinations = try guests.map { try LocalDestination($0, from: source.address, bulkLanes: 1) }
        for (destination, guest) in zip(destinations, guests) {
            #expect(try destination.end() == nil)
            #expect((0..<pages).allSatisfy { guest.words.isRight($0) })
            guest.release()
        }
    }

    /// What was on its way on a lost link is read anew.
    @Test(arguments: 1...4) func cutAtAnyByte(_ seed: UInt64) throws {
        let pages = 2048
        let source = try LocalSource(pages: try MadePages(pages: pages), name: "made.cut", pauseNanoseconds: 60_000_000_000)
        defer { source.stop() }
        let path = socketPath("made.relay")
        let random = Mutex(SeededRandom(seed: seed))
        // The first cut comes behind the handshake.
        let relay = try CuttingRelay(path: path, to: socketPath("made.cut")) { cuts in
            cuts > 40 ? .max : 100_000 + random.withLock { $0.next(below: 400_000) }
        }
        defer { relay.stop() }
        let guest = try Guest(.shared, pages: pages)
        let destination = try LocalDestination(guest, from: .unix(path: path), bulkLanes: 2) { $0.pauseNanoseconds = 60_000_000_000 }
        let readers = guest.startReaders(count: 2, seed: seed)
        #expect(try destination.end() == nil)
        guest.release()
        #expect(readers.join() == 0)
        #expect(destination.pauses > 0)
        #expect((0..<pages).allSatisfy { guest.words.isRight($0) })
    }

    /// A page that cannot be read ends the session on both sides; what came before it is right, and it is not there.
    @Test func aPageThatCannotBeRead() throws {
        let pages = 1024
        let bad = try #require((600..<pages).first { !Content.isZero($0) })
        let source = try LocalSource(pages: try MadePages(pages: pages, badPage: bad), name: "made.bad")
        defer { source.stop() }
        let guest = try Guest(.anonymous, pages: pages)
        let destination = try LocalDestination(guest, from: source.address, bulkLanes: 1)
        let end = try destination.end()
        guard case .peerFailed(let failure) = end else {
            Issue.record("\(String(describing: end))")
            return
        }
        #expect(failure.code == .memory && failure.text == "page \(bad) cannot be read")
        #expect(try #require(source.nextEnd()).reason == .memoryLost("page \(bad) cannot be read"))
        guest.release()
        // What has not come reads as zero now that nobody stands behind it; nothing else may differ.
        #expect(guest.words.isRight(bad, .zero))
        #expect((0..<pages).allSatisfy { guest.words.isRight($0) || guest.words.isRight($0, .zero) })
    }

    /// The end of what is served is noticed although nobody asks for a page.
    @Test func pagesThatAreGone() throws {
        let made = try MadePages(pages: 256)
        let source = try LocalSource(pages: made, name: "made.gone")
        defer { source.stop() }
        let guest = try Guest(.shared, pages: 256)
        let destination = try LocalDestination(guest, from: source.address) { $0.creditBytes = 0 }
        #expect(guest.words.isRight(7))
        made.isGone.store(true, ordering: .releasing)
        guard case .peerFailed(let failure)? = try destination.end() else {
            Issue.record("the session ends")
            return
        }
        #expect(failure.text == "the pages are gone")
        guest.release()
    }

    /// A slot is lent once, and what was looked at in the top one survives others that come back.
    @Test func slotsAreLentOnce() throws {
        var memory = try StagedMemory(try MadePages(pages: 4096, knowsHoles: false), mostRunBytes: 128 << 10)
        let data = (0..<4096).filter { !Content.isZero($0) }
        var lent: [(page: Int, pages: LentPages)] = []
        while memory.hasRoom(forPush: false) {
            let page = data[lent.count]
            let run = memory.classify(PageRange(region: 0, first: page, count: 1), mostScanned: 1)
            #expect(run == ContentRun(.data, count: 1))
            lent.append((page, memory.lend(PageRange(region: 0, first: page, count: 1))))
        }
        #expect(Set(lent.map(\.pages.token)).count == lent.count && lent.count == 64)
        for (page, pages) in lent { #expect(memcmp(pages.bytes.baseAddress!, Content.bytes(page), 4096) == 0) }
        memory.takeBack(lent[3].pages.token)
        let next = data[100]
        _ = memory.classify(PageRange(region: 0, first: next, count: 1), mostScanned: 1)
        memory.takeBack(lent[5].pages.token)
        let again = memory.lend(PageRange(region: 0, first: next, count: 1))
        #expect(memcmp(again.bytes.baseAddress!, Content.bytes(next), 4096) == 0)
        let (hasRoom, hasRoomForPush) = (memory.hasRoom(forPush: false), memory.hasRoom(forPush: true))
        #expect(hasRoom && !hasRoomForPush)
        memory.takeBackAll()
        let isAllFree = memory.hasRoom(forPush: true)
        #expect(isAllFree)
    }
}
