import PageCore
import PageEngine

/// The source's memory: one word stands for a page's bytes, 0 for a page of zeros.
struct SourceContent: ~Copyable, ContentClassifier {
    let layout: RegionLayout
    /// By session page number.
    let words: ContiguousArray<UInt64>
    private var holes: PageBitmap

    init(_ scenario: borrowing Scenario, _ random: inout SeededRandom) {
        layout = scenario.layout
        holes = PageBitmap(pageCount: layout.totalPages)
        var words = ContiguousArray<UInt64>(repeating: 0, count: layout.totalPages)
        var page = 0
        while page < words.count {
            // Alike pages lie together, as they do in a guest.
            let end = min(words.count, page + 1 + random.next(below: 24))
            let dice = random.next(below: 100)
            if dice < scenario.holePercent {
                holes.insert(page..<end)
            } else if dice >= scenario.holePercent + scenario.zeroPercent {
                for number in page..<end { words[number] = UInt64(number) << 8 | 0x5A }
            }
            page = end
        }
        self.words = words
    }

    mutating func classify(_ range: PageRange, mostScanned: Int) -> ContentRun {
        let pages = layout.sessionPages(range)
        if holes.contains(pages.lowerBound) {
            let end = holes.firstClear(in: pages) ?? pages.upperBound
            return ContentRun(.zero, count: end - pages.lowerBound)
        }
        let isZero = words[pages.lowerBound] == 0
        var end = pages.lowerBound + 1
        let limit = min(pages.upperBound, pages.lowerBound + mostScanned)
        while end < limit, (words[end] == 0) == isZero { end += 1 }
        return ContentRun(isZero ? .zero : .data, count: end - pages.lowerBound)
    }

    mutating func firstHole(in range: PageRange) -> PageRange? {
        let pages = layout.sessionPages(range)
        guard let first = holes.firstSet(in: pages) else { return nil }
        let end = holes.firstClear(in: first..<pages.upperBound) ?? pages.upperBound
        return layout.range(range.region, sessionPages: first..<end)
    }
}
