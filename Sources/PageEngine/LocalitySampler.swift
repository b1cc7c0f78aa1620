import PageCore

/// How useful it has been lately to fetch the neighbours of a page that belongs to no stream, and how large a block around it is
/// worth fetching.
///
/// It is measured, by samples: of the neighbours of a missed page one is drawn and remembered for a while, and the share of
/// remembered samples that were needed meanwhile is the measure. A sample that comes with the block is held, so that its touch
/// is seen; one outside of it is seen when it is missed. So the measure is the same whatever the size of the blocks is. Samples
/// that were not needed yet count as not needed: what is not known does not make blocks larger.
struct LocalitySampler: Sendable {
    /// Samples remembered, of all levels.
    private static let capacity = 320
    /// Sizes of aligned blocks, in pages; the neighbours of a level are the pages of its block that are not in the one before.
    private static let blockPages = [4, 16, 64]
    /// A level is fetched when one in so many of its samples was needed: a fault costs tens of times what a page of a window
    /// costs on a fast link.
    private static let mostSamplesPerUse = 14
    /// Fewer samples say nothing.
    private static let leastSamples = 8
    /// Watched pages by groups of `1 << groupShift`, so that most pages need no look at the samples themselves.
    private static let groupShift = 4
    private static let groups = 4096
    private static let none = -1

    private struct Sample: Sendable {
        /// `none` once it was needed.
        var page = LocalitySampler.none
        var level = 0
        /// `fetchedPages` when it was drawn.
        var fetchedPages = 0
        /// `misses` when it was drawn.
        var misses = 0
    }

    /// Pages of blocks for which a sample is remembered: what large blocks bring in vain when they cease to be useful. A
    /// sixteenth of the memory, at most 32 MiB of small pages.
    private let mostFetchedPages: Int
    /// Misses for which a sample is remembered: random ones meet it meanwhile by chance, in small memories often. So few that one in
    /// 64 does, far below the share that opens blocks.
    private let mostMisses: Int
    /// Fewer uses say nothing. In memories below 256 MiB chance brings three of them too often for what an error costs there.
    private let leastUses: Int
    /// A ring: `count` samples up to `next`, the oldest first.
    private var samples = ContiguousArray(repeating: Sample(), count: LocalitySampler.capacity)
    private var next = 0
    private var count = 0
    private var watched = ContiguousArray<UInt8>(repeating: 0, count: LocalitySampler.groups)
    /// Samples in the ring by level, and how many of them were needed.
    private var drawn = ContiguousArray(repeating: 0, count: LocalitySampler.blockPages.count)
    private var needed = ContiguousArray(repeating: 0, count: LocalitySampler.blockPages.count)
    /// Pages of blocks so far.
    private var fetchedPages = 0
    /// Blocks so far, those of one page too.
    private var misses = 0
    private var random = SeededRandom(seed: 4)

    init(totalPages: Int) {
        mostFetchedPages = max(512, min(8192, totalPages / 16))
        mostMisses = totalPages / 64
        leastUses = totalPages < 1 << 16 ? 5 : 3
    }

    private static func group(_ page: Int) -> Int { (page >> groupShift) & (groups - 1) }

    // MARK: Samples

    /// A page was missed or touched.
    mutating func noteTouch(_ page: Int) {
        guard watched[Self.group(page)] > 0 else { return }
        for index in samples.indices where samples[index].page == page {
            needed[samples[index].level] += 1
            samples[index].page = Self.none
            watched[Self.group(page)] -= 1
        }
    }

    private mutating func remember(_ page: Int, level: Int) {
        if count == Self.capacity { forgetOldest() }
        samples[next] = Sample(page: page, level: level, fetchedPages: fetchedPages, misses: misses)
        watched[Self.group(page)] += 1
        drawn[level] += 1
        next = (next + 1) % Self.capacity
        count += 1
    }

    private var oldest: Int { (next + Self.capacity - count) % Self.capacity }

    private mutating func forgetOldest() {
        let sample = samples[oldest]
        drawn[sample.level] -= 1
        if sample.page == Self.none {
            needed[sample.level] -= 1
        } else {
            watched[Self.group(sample.page)] -= 1
            samples[oldest].page = Self.none
        }
        count -= 1
    }

    /// Whether a sample among `pages` waits to be touched: the first such page. O(samples) where there is one, O(pages / 16)
    /// elsewhere.
    func firstHeld(in pages: Range<Int>) -> Int? {
        let groups = (pages.lowerBound >> Self.groupShift)...((pages.upperBound - 1) >> Self.groupShift)
        if groups.count < Self.groups, groups.allSatisfy({ watched[$0 & (Self.groups - 1)] == 0 }) { return nil }
        var first: Int?
        for sample in samples where pages.contains(sample.page) { first = min(first ?? .max, sample.page) }
        return first
    }

    // MARK: Blocks

    /// The pages to fetch around a missed one, it included.
    mutating func block(around page: Int, bounds: Range<Int>, mostPages: Int, settled: borrowing PageBitmap) -> Range<Int> {
        while count > 0, isOld(samples[oldest]) { forgetOldest() }
        let size = min(mostPages, usefulPages)
        fetchedPages += size
        misses += 1
        drawSample(around: page, bounds, settled)
        let first = max(bounds.lowerBound, page & ~(size - 1))
        return first..<min(bounds.upperBound, max(page + 1, first + size))
    }

    private func isOld(_ sample: Sample) -> Bool {
        fetchedPages - sample.fetchedPages > mostFetchedPages || misses - sample.misses > mostMisses
    }

    private mutating func drawSample(around page: Int, _ bounds: Range<Int>, _ settled: borrowing PageBitmap) {
        let level = random.next(below: Self.blockPages.count)
        let whole = Self.blockPages[level]
        let sample = (page & ~(whole - 1)) + random.next(below: whole)
        let belongsToTheLevelBefore = level > 0 && (sample ^ page) & ~(Self.blockPages[level - 1] - 1) == 0
        guard sample != page, !belongsToTheLevelBefore, bounds.contains(sample), !settled.contains(sample) else { return }
        remember(sample, level: level)
    }

    /// The size of a block that is worth it now: a power of two.
    var usefulPages: Int {
        for level in Self.blockPages.indices.reversed()
        where drawn[level] >= Self.leastSamples && needed[level] >= leastUses && needed[level] * Self.mostSamplesPerUse >= drawn[level] {
            return Self.blockPages[level]
        }
        return 1
    }
}
