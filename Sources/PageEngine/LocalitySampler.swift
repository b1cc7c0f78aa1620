import PageCore

/// How useful it has been lately to fetch the neighbours of a page that belongs to no stream, and how large a block around it is
/// worth fetching.
///
/// It is measured, by samples: of the neighbours of a missed page one is drawn, and watched for a while. When it is needed
/// within that time it counts for larger blocks, otherwise against them. A sample that comes with the block is held, so that its
/// touch is seen; one outside of it is seen when it is missed. So the measure is the same whatever the size of the blocks is.
struct LocalitySampler: Sendable {
    private static let capacity = 192
    private static let none = -1
    /// Events for which a sample is watched.
    private static let mostAge = 512
    /// Sizes of aligned blocks, in pages; the neighbours of a level are the pages of its block that are not in the one before.
    private static let blockPages = [4, 16, 64]
    /// A level is worth fetching when this share of its pages is needed, in 1/65536: a fault costs tens of times what a page of a
    /// window costs on a fast link.
    private static let leastUseful = unit / 9
    private static let unit = 1 << 16

    private struct Sample: Sendable {
        var page = LocalitySampler.none
        var level = 0
        var clock = 0
    }

    /// Watched pages by groups of `1 << groupShift`, so that most pages need no look at the samples themselves.
    private static let groupShift = 4
    private static let groups = 4096

    private var samples = ContiguousArray(repeating: Sample(), count: LocalitySampler.capacity)
    private var watched = ContiguousArray<UInt8>(repeating: 0, count: LocalitySampler.groups)
    private var next = 0
    /// The share of samples that were needed, by level, in 1/65536: averages that follow the last few dozen.
    private var usefulness = ContiguousArray(repeating: 0, count: LocalitySampler.blockPages.count)
    private var random = SeededRandom(seed: 4)

    private static func group(_ page: Int) -> Int { (page >> groupShift) & (groups - 1) }

    mutating func noteTouch(_ page: Int, clock: Int) {
        guard watched[Self.group(page)] > 0 else { return }
        for index in samples.indices where samples[index].page == page {
            learn(samples[index].level, clock - samples[index].clock <= Self.mostAge)
            samples[index].page = Self.none
            watched[Self.group(page)] -= 1
        }
    }

    private mutating func learn(_ level: Int, _ isUseful: Bool) {
        usefulness[level] += ((isUseful ? Self.unit : 0) - usefulness[level]) / 16
    }

    private mutating func watch(_ page: Int, _ level: Int, clock: Int) {
        let oldest = samples[next]
        if oldest.page != Self.none {
            learn(oldest.level, false)
            watched[Self.group(oldest.page)] -= 1
        }
        samples[next] = Sample(page: page, level: level, clock: clock)
        watched[Self.group(page)] += 1
        next = (next + 1) % Self.capacity
    }

    /// The pages to fetch around a missed one, it included.
    mutating func block(
        around page: Int, clock: Int, bounds: Range<Int>, mostPages: Int, settled: borrowing PageBitmap
    ) -> Range<Int> {
        let level = random.next(below: Self.blockPages.count)
        let whole = Self.blockPages[level]
        let sample = (page & ~(whole - 1)) + random.next(below: whole)
        let isInside = level > 0 && (sample ^ page) & ~(Self.blockPages[level - 1] - 1) == 0
        if sample != page, !isInside, bounds.contains(sample), !settled.contains(sample) { watch(sample, level, clock: clock) }
        let size = min(mostPages, usefulPages)
        let first = max(bounds.lowerBound, page & ~(size - 1))
        return first..<min(bounds.upperBound, max(page + 1, first + size))
    }

    /// A power of two.
    var usefulPages: Int {
        for level in Self.blockPages.indices.reversed() where usefulness[level] >= Self.leastUseful { return Self.blockPages[level] }
        return 1
    }

    func firstHeld(in pages: Range<Int>) -> Int? {
        let groups = (pages.lowerBound >> Self.groupShift)...((pages.upperBound - 1) >> Self.groupShift)
        if groups.count < Self.groups, groups.allSatisfy({ watched[$0 & (Self.groups - 1)] == 0 }) { return nil }
        var first: Int?
        for sample in samples where pages.contains(sample.page) { first = min(first ?? .max, sample.page) }
        return first
    }
}
