import PageCore

/// How useful it has been lately to fetch the neighbours of a page that belongs to no stream, and how large a block around it is
/// worth fetching.
///
/// It is measured, by samples: of the neighbours of a missed page one is drawn, and watched for a while. When it is needed
/// within that time it counts for larger blocks, otherwise against them. A sample that comes with the block is held, so that its
/// touch is seen; one outside of it is seen when it is missed. So the measure is the same whatever the size of the blocks is.
struct LocalitySampler: Sendable {
    private static let capacity = 64
    private static let none = -1
    /// Events for which a sample is watched.
    private static let mostAge = 256
    /// Neighbours are the other pages of an aligned block of so many.
    private static let neighbours = 16
    private static let unit = 1 << 16

    private struct Sample: Sendable {
        var page = LocalitySampler.none
        var clock = 0
    }

    private var samples = ContiguousArray(repeating: Sample(), count: LocalitySampler.capacity)
    private var next = 0
    /// The share of samples that were needed, in 1/65536: an average that follows the last few dozen.
    private(set) var usefulness = 0
    private var random = SeededRandom(seed: 4)

    mutating func noteTouch(_ page: Int, clock: Int) {
        for index in samples.indices where samples[index].page == page {
            if clock - samples[index].clock <= Self.mostAge { learn(true) }
            samples[index].page = Self.none
        }
    }

    private mutating func learn(_ isUseful: Bool) {
        usefulness += ((isUseful ? Self.unit : 0) - usefulness) / 16
    }

    private mutating func watch(_ page: Int, clock: Int) {
        if samples[next].page != Self.none { learn(false) }
        samples[next] = Sample(page: page, clock: clock)
        next = (next + 1) % Self.capacity
    }

    /// The pages to fetch around a missed one, it included.
    mutating func block(
        around page: Int, clock: Int, bounds: Range<Int>, mostPages: Int, settled: borrowing PageBitmap
    ) -> Range<Int> {
        let sample = (page & ~(Self.neighbours - 1)) + random.next(below: Self.neighbours)
        if sample != page, bounds.contains(sample), !settled.contains(sample) { watch(sample, clock: clock) }
        let size = min(mostPages, blockPages)
        let first = max(bounds.lowerBound, page & ~(size - 1))
        return first..<min(bounds.upperBound, max(page + 1, first + size))
    }

    /// A power of two.
    private var blockPages: Int {
        switch usefulness * 100 / Self.unit {
        case ..<10: 1
        case ..<20: 4
        case ..<30: 8
        default: 16
        }
    }

    func firstHeld(in pages: Range<Int>) -> Int? {
        var first: Int?
        for sample in samples where pages.contains(sample.page) { first = min(first ?? .max, sample.page) }
        return first
    }
}
