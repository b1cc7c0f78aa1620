import PageCore
import PageEngine
import TestSupport
import Testing

@testable import PageFerry

/// Whole sessions over every transport there is, faults from the kernel, every byte compared.
@Suite(.leavesNothing, .serialized, .enabled(if: sessionsArePossible)) struct PagingTests {
    /// Pages arrive while threads read them in random orders.
    private func move(_ kind: GuestKind, _ link: Link, pages: Int, bulkLanes: Int = 2, prefault: Bool = false, copiesPush: Bool = false)
        throws
    {
        let image = try makeImage(pages: pages, pageSize: kind.pageSize)
        let source = try LocalSource(image, name: "\(kind).\(bulkLanes)", link: link)
        defer { source.stop() }
        let guest = try Guest(kind, pages: pages)
        let readers: Readers
        do {
            let destination = try LocalDestination(guest, from: source.address, bulkLanes: bulkLanes, prefault: prefault, link: link) {
                $0.copiesPush = copiesPush
            }
            readers = guest.startReaders(count: 3, seed: UInt64(pages))
            #expect(try destination.end() == nil)
            guest.release()
            let statistics = destination.session.statistics.read()
            #expect(statistics.missingPages == 0)
            #expect(statistics.phase == .completed)
            let counts = statistics.counts
            #expect(counts.demand + counts.window + counts.push + counts.zero == pages, "each page is counted once: \(counts)")
            let data = (0..<pages).count { !Content.isZero($0) }
            #expect(counts.contentBytes >= data * kind.pageSize.bytes)
            // Over RDMA a page may be demanded before the source has looked whether it is zero.
            let mostData = link == .unix ? data : data + counts.demand + counts.window
            #expect(counts.contentBytes <= mostData * kind.pageSize.bytes, "content crosses once, and nothing else does")
        }
        #expect(readers.join() == 0)
        for page in 0..<pages where !guest.words.isRight(page) { Issue.record("page \(page) differs") }
        let end = try #require(source.nextEnd())
        #expect(end.reason == nil)
    }

    @Test(arguments: Link.all) func sharedMemory(_ link: Link) throws { try move(.shared, link, pages: 4096) }

    @Test(arguments: Link.all) func sharedMemoryAllocatedAhead(_ link: Link) throws {
        try move(.shared, link, pages: 4096, prefault: true)
    }

    /// What the source has as holes stays one here; what it fills afterwards, and what it never told, comes all the same.
    @Test(arguments: Link.all) func onlyWhatTheSourceHoldsIsAllocatedAhead(_ link: Link) throws {
        let pages = 4096
        let image = try makeImage(pages: pages)
        let source = try LocalSource(image, name: "told", link: link) { $0.toldImage = { image } }
        defer { source.stop() }
        let guest = try Guest(.shared, pages: pages)
        let regions = try DestinationRegions([try guest.handOver()])
        var configuration = DestinationConnector.Configuration()
        configuration.transport = link.transport
        configuration.push = link.push
        let connector = try DestinationConnector(to: source.address, configuration: configuration)
        try connector.prefault(regions, deadlineNanoseconds: MonotonicClock.nowNanoseconds() + 10_000_000_000)
        #expect(try guest.allocatedPages() == (0..<pages).filter { !Content.isHole($0) })
        let opened = try connector.accept(regions)
        let ended = Mailbox<SessionError?>()
        let session = DestinationSession(opened, regions: regions, machineState: nil, configuration: .init()) { notice in
            if case .ended(let reason) = notice { ended.post(reason) }
        }
        #expect(try #require(ended.next()) == nil)
        session.join()
        guest.release()
        for page in 0..<pages where !guest.words.isRight(page) { Issue.record("page \(page) differs") }
    }

    /// Nobody has allocated the memory: the kernel does when it copies. Over RDMA, and of huge pages, nothing changes.
    @Test(arguments: Link.all) func sharedMemoryCopied(_ link: Link) throws {
        try move(.shared, link, pages: 4096, copiesPush: true)
    }

    /// What the file holds already, half an extent that came over a lost link for instance, is not the guest's: no page of it may be seen.
    @Test(arguments: Link.all) func sharedMemoryCopiedOverWhatIsThere(_ link: Link) throws {
        let pages = 4096
        let source = try LocalSource(try makeImage(pages: pages), name: "copied", link: link)
        defer { source.stop() }
        let guest = try Guest(.shared, pages: pages)
        try guest.scribble((0..<pages).filter { ($0 % 5 == 0 || (1000..<1200).contains($0)) && !Content.isZero($0) })
        let destination = try LocalDestination(guest, from: source.address, link: link) { $0.copiesPush = true }
        let readers = guest.startReaders(count: 2, seed: 5)
        #expect(try destination.end() == nil)
        guest.release()
        #expect(readers.join() == 0)
        for page in 0..<pages where !guest.words.isRight(page) { Issue.record("page \(page) differs") }
    }

    @Test(arguments: Link.all) func anonymousMemory(_ link: Link) throws { try move(.anonymous, link, pages: 4096) }

    @Test(arguments: Link.all) func anonymousMemoryInPieces(_ link: Link) throws { try move(.anonymousPieces, link, pages: 4096) }

    @Test(arguments: Link.all) func hugePages(_ link: Link) throws {
        guard let reserve = HugePageReserve(count: 24) else { return }
        try move(.hugePages, link, pages: 8)
        try move(.hugePages, link, pages: 12, prefault: true)
        _ = consume reserve
    }

    @Test(arguments: [0, 1, 4], Link.all) func bulkLanes(_ count: Int, _ link: Link) throws {
        try move(.shared, link, pages: 2048, bulkLanes: count)
    }

    @Test(arguments: Link.all) func noBulkLaneForAnonymousMemory(_ link: Link) throws {
        try move(.anonymous, link, pages: 2048, bulkLanes: 0)
    }

    @Test(arguments: Link.all) func onePage(_ link: Link) throws {
        try move(.shared, link, pages: 1)
        try move(.anonymous, link, pages: 1)
    }

    /// A whole 64 MiB region under concurrent faults.
    @Test(arguments: Link.all) func wholeRegion(_ link: Link) throws { try move(.shared, link, pages: 16_384) }

    /// One image, pulled by several at once.
    @Test(arguments: Link.all) func severalDestinations(_ link: Link) throws {
        let pages = 2048
        let source = try LocalSource(try makeImage(pages: pages), name: "several", link: link)
        defer { source.stop() }
        let guests = try [GuestKind.shared, .anonymous, .shared].map { try Guest($0, pages: pages) }
        let destinations = try guests.map { try LocalDestination($0, from: source.address, bulkLanes: 1, link: link) }
        let readers = guests.enumerated().map { $1.startReaders(count: 1, seed: UInt64($0)) }
        for (destination, guest) in zip(destinations, guests) {
            #expect(try destination.end() == nil)
            // A session that failed leaves readers waiting for ever: let them go, and be counted wrong.
            guest.release()
        }
        for reader in readers { #expect(reader.join() == 0) }
        for guest in guests {
            #expect((0..<pages).allSatisfy { guest.words.isRight($0) })
        }
        for _ in guests { #expect(try #require(source.nextEnd()).reason == nil) }
    }

    /// Pages given up before and during the paging read as zero from then on, unless they are written again.
    @Test(
        arguments: Link.all.flatMap { link in
            [(GuestKind.shared, false), (.shared, true), (.anonymous, false), (.anonymousPieces, false)].map { ($0.0, $0.1, link) }
        }, [1, 7, 42])
    func removal(_ way: (kind: GuestKind, copiesPush: Bool, link: Link), _ seed: UInt64) throws {
        let (kind, copiesPush, link) = way
        let pages = 4096
        let source = try LocalSource(try makeImage(pages: pages), name: "removal", startsAtOnce: false, link: link)
        defer { source.stop() }
        let guest = try Guest(kind, pages: pages)
        let destination = try LocalDestination(guest, from: source.address, link: link) { $0.copiesPush = copiesPush }
        var expected = [Expectation](repeating: .content, count: pages)
        var random = SeededRandom(seed: seed)
        // Nothing is here yet: all these pages are given up before they come.
        for round in 0..<24 {
            // The second half races with the push.
            if round == 12 { source.guestStopped() }
            let first = random.next(below: pages)
            let range = first..<min(pages, first + 1 + random.next(below: 64))
            #expect(guest.remove(range))
            for page in range { expected[page] = .zero }
            if round % 3 == 0 {
                guest.words.write(range.lowerBound, .rewritten)
                expected[range.lowerBound] = .rewritten
            }
            #expect(guest.words.isRight(range.upperBound - 1, expected[range.upperBound - 1]), "round \(round)")
        }
        #expect(try destination.end() == nil)
        guest.release()
        for page in 0..<pages where !guest.words.isRight(page, expected[page]) {
            Issue.record("page \(page) is not \(expected[page])")
        }
        #expect(destination.session.statistics.read().missingPages == 0)
    }
}
