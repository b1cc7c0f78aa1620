/// The last few misses and touches, by zone of memory, so that a thread that faults often does not push the traces of others out.
struct FaultHistory: Sendable {
    /// Session pages of one zone: 2 MiB of small pages.
    private static let zoneShift = 9
    private static let zoneSlots = 256
    private static let perZone = 8
    /// Events after which a page is forgotten.
    private static let mostAge = 256
    /// Longer steps are met by chance more easily, and must be seen once more.
    private static let shortStep = 8
    private static let none = -1

    private struct Entry: Sendable {
        var page = FaultHistory.none
        var clock = 0
    }

    private var entries = ContiguousArray(repeating: Entry(), count: FaultHistory.zoneSlots * FaultHistory.perZone)
    /// Where the next page of a zone's slot goes.
    private var next = ContiguousArray(repeating: 0, count: FaultHistory.zoneSlots)

    private static func slot(_ page: Int) -> Int { (page >> zoneShift) & (zoneSlots - 1) }

    mutating func note(_ page: Int, clock: Int) {
        let slot = Self.slot(page)
        entries[slot * Self.perZone + next[slot]] = Entry(page: page, clock: clock)
        next[slot] = (next[slot] + 1) % Self.perZone
    }

    private func isRecent(_ page: Int, _ clock: Int) -> Bool {
        guard page >= 0 else { return false }
        let first = Self.slot(page) * Self.perZone
        for index in first..<(first + Self.perZone) where entries[index].page == page {
            return clock - entries[index].clock <= Self.mostAge
        }
        return false
    }

    /// The step that leads to `page`: two pages were needed lately that lie one and two steps before it. The smallest such step,
    /// upwards first; nil when there is none. Pages of other threads in between do not matter.
    ///
    /// O(pages of three zones x pages of one).
    func trend(to page: Int, clock: Int) -> Int? {
        var best: Int?
        for zone in [page - 1 << Self.zoneShift, page, page + 1 << Self.zoneShift] where zone >= 0 {
            let first = Self.slot(zone) * Self.perZone
            for index in first..<(first + Self.perZone) {
                let entry = entries[index]
                let step = page - entry.page
                guard entry.page != Self.none, step != 0, step.magnitude <= 1 << Self.zoneShift, clock - entry.clock <= Self.mostAge
                else { continue }
                if let known = best, known.magnitude < step.magnitude || (known.magnitude == step.magnitude && known > step) { continue }
                guard isRecent(entry.page - step, clock) else { continue }
            if step.magnitude <= Self.shortStep || isRecent(entry.page - 2 * step, clock) { best = step }
            }
        }
        return best
    }
}
