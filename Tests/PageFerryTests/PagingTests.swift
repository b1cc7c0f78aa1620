import PageCore
import PageEngine
import Testing

@testable import PageFerry

/// Whole sessions over unix sockets, faults from the kernel, every byte compared.
@Suite(.serialized, .enabled(if: sessionsArePossible)) struct PagingTests {
    /// Pages arrive while threads read them in random orders.
    private func move(_ kind: GuestKind, pages: Int, bulkLanes: Int = 2, prefault: Bool = false) throws {
        let image = try makeImage(pages: pages, pageSize: kind.pageSize)
        let source = try LocalSource(image, name: "\(kind).\(bulkLanes)")
        defer { source.stop() }
        let guest = try Guest(kind, pages: pages)
        let readers: Readers
        do {
            let destination = try LocalDestination(guest, from: source.address, bulkLanes: bulkLanes, prefault: prefault)
            readers = guest.startReaders(count: 3, seed: UInt64(pages))
            #expect(try destination.end() == nil)
            guest.release()
            let statistics = destination.session.statistics.read()
            #expect(statistics.missingPages == 0)
            #expect(statistics.phase == .completed)
            let counts = statistics.counts
            #expect(counts.demand + counts.window + counts.push + counts.zero == pages, "each page is counted once: \(counts)")
            let data = (0..<pages).count { !Content.isZero($0) }
            #expect(counts.contentBytes == data * kind.pageSize.bytes, "content crosses once, and nothing else does")
        }
        #expect(readers.join() == 0)
        for page in 0..<pages where !guest.words.isRight(page) { Issue.record("page \(page) differs") }
        let end = try #require(source.nextEnd())
        #expect(end.reason == nil)
    }

    @Test func sharedMemory() throws { try move(.shared, pages: 4096) }

    @Test func sharedMemoryAllocatedAhead() throws { try move(.shared, pages: 4096, prefault: true) }

    @Test func anonymousMemory() throws { try move(.anonymous, pages: 4096) }

    @Test func hugePages() throws {
        guard let reserve = HugePageReserve(count: 24) else { return }
        try move(.hugePages, pages: 8)
        try move(.hugePages, pages: 12, prefault: true)
        _ = consume reserve
    }

    @Test(arguments: [0, 1, 4]) func bulkLanes(_ count: Int) throws { try move(.shared, pages: 2048, bulkLanes: count) }

    @Test func noBulkLaneForAnonymousMemory() throws { try move(.anonymous, pages: 2048, bulkLanes: 0) }

    @Test func onePage() throws {
        try move(.shared, pages: 1)
        try move(.anonymous, pages: 1)
    }

    /// One image, pulled by several at once.
    @Test func severalDestinations() throws {
        let pages = 2048
        let source = try LocalSource(try makeImage(pages: pages), name: "several")
        defer { source.stop() }
        let guests = try [GuestKind.shared, .anonymous, .shared].map { try Guest($0, pages: pages) }
        let destinations = try guests.map { try LocalDestination($0, from: source.address, bulkLanes: 1) }
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
    @Test(arguments: [GuestKind.shared, .anonymous], [1, 7, 42]) func removal(_ kind: GuestKind, _ seed: UInt64) throws {
        let pages = 4096
        let source = try LocalSource(try makeImage(pages: pages), name: "removal", startsAtOnce: false)
        defer { source.stop() }
        let guest = try Guest(kind, pages: pages)
        let destination = try LocalDestination(guest, from: source.address)
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
                guest.words.write(range.lowerBound) { _ in Content.rewritten }
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
