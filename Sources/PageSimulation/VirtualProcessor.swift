import PageCore

/// A thread of the simulated guest: touches pages in its pattern, waits for those that are not there.
struct VirtualProcessor: Sendable {
    private let pattern: Scenario.Pattern
    private let pages: Int
    private var position: Int
    private let stride: Int
    private let hotPages: Int
    private var random: SeededRandom
    private(set) var accessesLeft: Int
    /// The page it waits for, and since when.
    var waitingFor: Int?
    var waitingSince = 0
    /// Whether its next step is scheduled because its page became visible.
    var isWaking = false
    private var version: UInt64

    init(number: Int, _ scenario: borrowing Scenario, seed: UInt64) {
        random = SeededRandom(seed: seed)
        pattern = Scenario.Pattern.allCases[random.next(below: Scenario.Pattern.allCases.count)]
        pages = scenario.layout.totalPages
        position = random.next(below: pages)
        stride = 1 + random.next(below: max(1, pages / 3))
        hotPages = min(pages, 1 + random.next(below: 16))
        accessesLeft = scenario.accessesEach
        version = UInt64(number + 1) << 56
    }

    /// The page of the next access.
    mutating func nextPage() -> Int {
        accessesLeft -= 1
        switch pattern {
        case .sequential: position = (position + 1) % pages
        case .strided: position = (position + stride) % pages
        case .random: return random.next(below: pages)
        case .hotSet:
            if random.chance(percent: 10) { return random.next(below: pages) }
            return (position + random.next(below: hotPages)) % pages
        }
        return position
    }

    /// What it writes, different each time; nil when it reads.
    mutating func nextWrite(percent: Int) -> UInt64? {
        guard random.chance(percent: percent) else { return nil }
        version += 1
        return version
    }

    mutating func thinkNanoseconds(around mean: Int) -> Int { 1 + random.next(below: 2 * mean) }
}
