/// The last few misses and touches, by zone of memory, so that a thread that faults often does not push the traces of others out.
struct FaultHistory: Sendable {
    /// Session pages of one zone: 2 MiB of small pages.
    private static let zoneShift = 9
    private static let zoneSlots = 256
    private static let perZone = 8
    private static let latestSlots = 1024
    /// Events after which a page is forgotten. Fewer in small memories, where chance soon brings three random pages into a row.
    private let mostAge: Int
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

    /// The last event of a page, in its slot: whoever shares it overwrites it.
    private var latest = ContiguousArray(repeating: Entry(), count: FaultHistory.latestSlots)

    init(totalPages: Int) { mostAge = max(16, min(256, totalPages / 256)) }

    private static func slot(_ page: Int) -> Int { (page >> zoneShift) & (zoneSlots - 1) }

    /// Spread by the golden ratio: threads in equal parts of memory differ in their high bits only.
    private static func latestSlot(_ page: Int) -> Int { Int((UInt64(bitPattern: Int64(page)) &* 0x9E37_79B9_7F4A_7C15) >> 54) }

    mutating func note(_ page: Int, clock: Int) {
        let slot = Self.slot(page)
        entries[slot * Self.perZone + next[slot]] = Entry(page: page, clock: clock)
        next[slot] = (next[slot] + 1) % Self.perZone
        latest[Self.latestSlot(page)] = Entry(page: page, clock: clock)
    }

    private func isRecent(_ page: Int, _ clock: Int) -> Bool {
        let entry = latest[Self.latestSlot(page)]
        return entry.page == page && page >= 0 && clock - entry.clock <= mostAge
    }

    /// The step that leads to `page`: two pages were needed lately that lie one and two steps before it. The smallest such step,
    /// upwards first; nil when there is none. Pages of other threads in between do not matter.
    ///
    /// O(pages kept of three zones).
    func trend(to page: Int, clock: Int) -> Int? {
        var best: Int?
        for zone in -1...1 {
            let first = Self.slot(page + zone << Self.zoneShift) * Self.perZone
            for index in first..<(first + Self.perZone) {
                let entry = entries[index]
                let step = page - entry.page
                guard entry.page != Self.none, step != 0, step.magnitude <= 1 << Self.zoneShift, clock - entry.clock <= mostAge
                else { continue }
                if let known = best, known.magnitude < step.magnitude || (known.magnitude == step.magnitude && known > step) { continue }
                guard isRecent(entry.page - step, clock) else { continue }
                if step.magnitude <= Self.shortStep || isRecent(entry.page - 2 * step, clock) { best = step }
            }
        }
        return best
    }
}
