import PageCore
import PageWire
import Testing

@testable import PageEngine

@Suite struct WindowPlannerTests {
    private static func layout(_ pages: Int) throws -> RegionLayout {
        try RegionLayout([RegionDescription(name: "ram", lengthBytes: pages << 12, pageSize: .fourKiB)])
    }

    /// The pages a planned window stands for; of a missed page's window, those around it.
    private static func pages(_ window: PlannedWindow, missed: Int?) -> Set<Int> {
        guard window.stride != 0 else { return Set(window.pages) }
        var page = missed.map { $0 + window.stride } ?? (window.stride > 0 ? window.pages.lowerBound : window.pages.upperBound - 1)
        var pages: Set<Int> = []
        while window.pages.contains(page) {
            pages.insert(page)
            page += window.stride
        }
        return pages
    }

    /// A guest in which everything that is asked for is there at once.
    private struct Guest: ~Copyable {
        var planner: WindowPlanner
        var settled: PageBitmap
        var held: Set<Int> = []
        var misses: [Int] = []
        let mostPages: Int

        init(_ layout: RegionLayout, mostBytes: Int = 1 << 20) {
            planner = WindowPlanner(layout: layout, policy: .adaptive(mostBytes: mostBytes))
            settled = PageBitmap(pageCount: layout.totalPages)
            mostPages = mostBytes >> 12
        }

        mutating func touch(_ page: Int) {
            if !settled.contains(page) {
                misses.append(page)
                let window = planner.missed(page, settled: settled)
                #expect(window.pages.contains(page))
                settled.insert(page)
                take(window, missed: page)
            } else if held.remove(page) != nil, let window = planner.touched(page, settled: settled) {
                #expect(!window.pages.isEmpty)
                take(window, missed: nil)
            }
        }

        private mutating func take(_ window: PlannedWindow, missed: Int?) {
            #expect(window.pages.lowerBound >= 0 && window.pages.upperBound <= settled.pageCount, "\(window) leaves the memory")
            let pages = WindowPlannerTests.pages(window, missed: missed)
            #expect(pages.count <= mostPages, "\(window) has \(pages.count) pages")
            for page in pages where settled.insert(page) && planner.firstHeld(in: page..<(page + 1)) == page { held.insert(page) }
        }
    }

    /// Whatever is touched, in whatever order: windows hold their page, stay in the memory, and are no larger than allowed.
    @Test(arguments: 1...6) func everyShortSequence(pageCount: Int) throws {
        let layout = try Self.layout(pageCount)
        let length = 6
        var sequence = [Int](repeating: 0, count: length)
        repeat {
            var guest = Guest(layout, mostBytes: 4 << 12)
            for page in sequence { guest.touch(page) }
            #expect(Set(guest.misses).count == guest.misses.count, "a page was missed twice in \(sequence)")
            var place = 0
            while place < length {
                sequence[place] += 1
                if sequence[place] < pageCount { break }
                sequence[place] = 0
                place += 1
            }
            if place == length { return }
        } while true
    }

    @Test(arguments: 0..<40) func randomWalksStayInTheirRegion(seed: UInt64) throws {
        let layout = try RegionLayout([
            RegionDescription(name: "a", lengthBytes: 100 << 12, pageSize: .fourKiB),
            RegionDescription(name: "huge", lengthBytes: 5 << 21, pageSize: .twoMiB),
            RegionDescription(name: "b", lengthBytes: 300 << 12, pageSize: .fourKiB),
        ])
        var planner = WindowPlanner(layout: layout, policy: .adaptive())
        let settled = PageBitmap(pageCount: layout.totalPages)
        var random = SeededRandom(seed: seed)
        var page = random.next(below: layout.totalPages)
        for _ in 0..<2_000 {
            if random.chance(percent: 20) { page = random.next(below: layout.totalPages) }
            page = (page + [1, -1, 3, -7, 1, 1][random.next(below: 6)] + layout.totalPages) % layout.totalPages
            let region = layout.sessionPages(layout.wholeRange(layout.region(ofSessionPage: page)))
            let isHuge = layout[layout.region(ofSessionPage: page)].pageSize == .twoMiB
            let window: PlannedWindow?
            if random.chance(percent: 70) {
                window = planner.missed(page, settled: settled)
                #expect(window?.pages.contains(page) == true)
                if isHuge { #expect(window?.pages.count == 1, "huge pages go as one") }
            } else {
                window = planner.touched(page, settled: settled)
            }
            if let window { #expect(window.pages.lowerBound >= region.lowerBound && window.pages.upperBound <= region.upperBound) }
        }
    }

    /// Every step of one size is found, in both directions, from any page on: at most 3 % of its pages are missed.
    @Test(arguments: [1, 2, 3, 5, 7, 8, 9, 16, 17, 64, 100, 511, 512]) func everyStride(step: Int) throws {
        let count = 400
        let layout = try Self.layout(step * count + 37)
        for direction in [1, -1] {
            for first in [0, 5, 36] {
                var guest = Guest(layout)
                let touches = (0..<count).map { first + $0 * step }
                for page in direction > 0 ? touches : touches.reversed() { guest.touch(page) }
                #expect(guest.misses.count <= count * 3 / 100, "step \(step * direction) from \(first): \(guest.misses)")
                #expect(guest.settled.setCount <= count + 2 * 256 + 8, "little is fetched beside the grid")
            }
        }
    }

    /// Threads in turn do not hide each other's steps.
    @Test(arguments: [2, 4, 8, 16]) func interleavedStreams(count: Int) throws {
        let length = 1_024
        let layout = try Self.layout(count * length)
        var guest = Guest(layout)
        for index in 0..<length {
            for stream in 0..<count {
                // Every second one downwards.
                guest.touch(stream % 2 == 0 ? stream * length + index : (stream + 1) * length - 1 - index)
            }
        }
        #expect(guest.misses.count <= count * length * 3 / 100, "\(guest.misses.count) misses")
    }

    @Test(arguments: 0..<8) func randomFaultsBringNothingElse(seed: UInt64) throws {
        let layout = try Self.layout(1 << 15)
        var guest = Guest(layout)
        var random = SeededRandom(seed: seed)
        var touched: Set<Int> = []
        for _ in 0..<(1 << 13) {
            let page = random.next(below: 1 << 15)
            touched.insert(page)
            guest.touch(page)
        }
        #expect(guest.settled.setCount - touched.count <= guest.settled.setCount / 10)
    }

    /// A stream that ends is not fetched on; a random phase after a regular one brings nothing else soon.
    @Test func aStreamThatEndsStops() throws {
        let layout = try Self.layout(1 << 16)
        var guest = Guest(layout)
        for page in 0..<2_000 { guest.touch(page) }
        var random = SeededRandom(seed: 3)
        let before = guest.settled.setCount
        var touched: Set<Int> = []
        for _ in 0..<1_000 {
            let page = 4_096 + random.next(below: (1 << 16) - 4_096)
            touched.insert(page)
            guest.touch(page)
        }
        #expect(guest.settled.setCount - before - touched.count <= 100)
    }

    /// Where neighbours are needed soon, blocks grow; where they are not any more, they shrink to the page.
    @Test func blocksFollowWhatIsUsed() throws {
        let layout = try Self.layout(1 << 16)
        var guest = Guest(layout)
        var random = SeededRandom(seed: 5)
        // Two thirds of the pages of 64, in random order, one block after the other.
        for block in 0..<200 {
            var pages = Array(0..<64)
            pages.shuffle(using: &random)
            for page in pages[..<42] { guest.touch(block * 64 + page) }
        }
        #expect(guest.misses.count < 200 * 42 / 8)
        // Single pages, far apart: after a while nothing comes along.
        for page in stride(from: 1 << 14, to: 1 << 15, by: 64) { guest.touch(page + random.next(below: 64)) }
        let before = guest.settled.setCount
        for page in stride(from: 1 << 15, to: 1 << 16, by: 64) { guest.touch(page + random.next(below: 64)) }
        #expect(guest.settled.setCount - before <= (1 << 15) / 64 * 110 / 100)
    }
}
