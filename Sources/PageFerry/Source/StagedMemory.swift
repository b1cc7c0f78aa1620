import HostMemory
import PageCore
import PageEngine

/// A session's view of a `PageSource`: pages are read into slots, looked at there, and sent from there. A slot holds what one read
/// brought, for the frames that are made of it, and is free again once other pages are looked at and those frames are sent.
///
/// The slots are made at the start; a page that finds none waits for one to come back.
struct StagedMemory<Source: PageSource>: ~Copyable, SessionMemory {
    /// Of a session's slots; each holds as much as a frame of the push.
    private static var mostSlotBytes: Int { 8 << 20 }
    private static var leastSlots: Int { 16 }
    /// Slots that the push leaves for demands and their windows.
    private static var slotsForDemands: Int { 8 }

    private let source: Source
    private let slots: MappedMemory
    private let slotBytes: Int
    /// The numbers of free slots, a stack.
    private var free: ContiguousArray<UInt8>
    private var freeCount: Int
    /// Frames on their way from each slot.
    private var lentFrames: ContiguousArray<Int>
    /// The slot that was read into last, and the pages that lie there: what zeros or a frame left of a read is looked at again.
    private var current: Int?
    private var staged: PageRange?
    private(set) var failure: SessionError?

    var isFilledOnTouch: Bool { true }

    /// - Parameter mostRunBytes: of one frame of the push.
    init(_ source: Source, mostRunBytes: Int) throws(SessionError) {
        let pageBytes = source.layout.regions.map(\.pageSize.bytes).max() ?? 4096
        slotBytes = max(mostRunBytes, pageBytes)
        let count = min(128, max(Self.leastSlots, Self.mostSlotBytes / slotBytes))
        do throws(HostMemoryError) { slots = try MappedMemory(anonymousBytes: count * slotBytes) } catch {
            throw .memory(error.description)
        }
        self.source = source
        free = ContiguousArray((0..<count).map { UInt8($0) })
        freeCount = count
        lentFrames = ContiguousArray(repeating: 0, count: count)
    }

    // MARK: Looking at pages

    mutating func classify(_ range: PageRange, mostScanned: Int) -> ContentRun {
        var most = min(range.count, mostScanned)
        if let zeros = source.knownZeros(in: range) {
            if zeros.first == range.first { return ContentRun(.zero, count: zeros.count) }
            most = min(most, zeros.first - range.first)
        }
        do throws(SessionError) {
            let ready = try stage(range, most: most)
            return run(ready)
        } catch {
            if failure == nil { failure = error }
            // Nothing of it leaves: the failure is looked at first.
            return ContentRun(.data, count: 1)
        }
    }

    /// Has the first pages of `range`, at most `most`, lie in the current slot.
    private mutating func stage(_ range: PageRange, most: Int) throws(SessionError) -> PageRange {
        let shift = source.layout.pageShift(range.region)
        let wanted = PageRange(region: range.region, first: range.first, count: min(most, slotBytes >> shift))
        if let staged, staged.region == wanted.region, staged.first <= wanted.first, wanted.first < staged.end {
            return PageRange(region: wanted.region, first: wanted.first, count: min(wanted.count, staged.end - wanted.first))
        }
        let slot = takeSlot()
        let start = slot * slotBytes
        let source = source
        try slots.withMutableBytes(start..<start + wanted.count << shift) { (bytes) throws(SessionError) in
            try source.read(wanted, into: &bytes)
        }
        staged = wanted
        return wanted
    }

    /// Makes another slot the current one: the same where no frame of it is on its way.
    private mutating func takeSlot() -> Int {
        staged = nil
        if let current, lentFrames[current] == 0 { return current }
        precondition(freeCount > 0, "there is room before a page is looked at")
        freeCount -= 1
        let slot = Int(free[freeCount])
        current = slot
        return slot
    }

    /// As many of the pages, which are staged, as are like the first.
    private func run(_ pages: PageRange) -> ContentRun {
        let isZero = isZero(pages.first, of: pages.region)
        var count = 1
        while count < pages.count, self.isZero(pages.first + count, of: pages.region) == isZero { count += 1 }
        return ContentRun(isZero ? .zero : .data, count: count)
    }

    private func isZero(_ page: PageIndex, of region: RegionIndex) -> Bool {
        slots.withBytes(place(PageRange(region: region, first: page, count: 1))) { $0.isZero }
    }

    /// Where staged pages lie among the slots' bytes.
    private func place(_ range: PageRange) -> Range<Int> {
        guard let current, let staged, staged.region == range.region, staged.first <= range.first, range.end <= staged.end else {
            preconditionFailure("pages are looked at where they were staged")
        }
        let shift = source.layout.pageShift(range.region)
        let start = current * slotBytes + (range.first - staged.first) << shift
        return start..<start + range.count << shift
    }

    func firstHole(in range: PageRange) -> PageRange? { source.knownZeros(in: range) }

    mutating func verify() {
        guard failure == nil else { return }
        do throws(SessionError) { try source.verify() } catch { failure = error }
    }

    // MARK: Lending

    func hasRoom(forPush isPush: Bool) -> Bool {
        let isCurrentFree = current.map { lentFrames[$0] == 0 } ?? false
        return freeCount + (isCurrentFree ? 1 : 0) > (isPush ? Self.slotsForDemands : 0)
    }

    @unsafe mutating func lend(_ range: PageRange) -> LentPages {
        let place = place(range)
        let slot = place.lowerBound / slotBytes
        lentFrames[slot] += 1
        // SAFETY: the place was checked against what is staged, which lies in the slots; a slot is written to only while no frame of it is lent.
        return unsafe LentPages(
            bytes: UnsafeRawBufferPointer(start: slots.pointer + place.lowerBound, count: place.count), token: UInt64(slot) + 1)
    }

    mutating func takeBack(_ token: UInt64) {
        let slot = Int(token) - 1
        precondition(lentFrames.indices.contains(slot) && lentFrames[slot] > 0, "what is taken back was lent")
        lentFrames[slot] -= 1
        if lentFrames[slot] == 0, slot != current { release(slot) }
    }

    private mutating func release(_ slot: Int) {
        free[freeCount] = UInt8(slot)
        freeCount += 1
    }

    mutating func takeBackAll() {
        staged = nil
        current = nil
        freeCount = free.count
        for index in 0..<freeCount {
            free[index] = UInt8(index)
            lentFrames[index] = 0
        }
    }
}
