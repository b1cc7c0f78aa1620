import PageCore
import PageEngine
import PageWire

/// Fulfils the destination engine's wishes on simulated memory, as the session's own adapter does on the kernel's:
/// frames wait for room on the urgent lane, work the kernel refuses is parked.
struct DestinationAdapter: ~Copyable, DestinationSink {
    enum Parked: Sendable {
        case install(PageRange)
        case fromSlab(PageRange, lane: Int, byteOffset: Int)
        case resolve(RegionIndex, PageIndex)
    }

    let layout: RegionLayout
    let bug: SeededBug?
    var guest: GuestMemory
    private var outgoing: BoundedQueue<FrameHeader>
    private var parked: BoundedQueue<Parked>
    private var parkedInSlab: [Int]
    /// The pages of the frame last received into each lane's slab, one word a page.
    private var slabs: [ContiguousArray<UInt64>]
    /// Removal events that wait to be read: while there are any, the kernel refuses to fill guest memory.
    var unreadRemovals = 0
    private let refusalPercent: Int
    private let receivesInPlace: [Bool]
    private var random: SeededRandom
    private(set) var hasReported = false
    var isLosingLanes = false
    var isTakingOver = false
    /// What a daemon that takes over finds: a bit a page, set as the session's own adapter sets it.
    private(set) var recorded: PageBitmap
    /// Steps until the daemon dies in the middle of a turn; from then on nothing of what it does has an effect.
    private var stepsLeft: Int?
    private var diesAtCopy = false
    private(set) var isDead = false
    /// Pages that became visible since the threads were last woken. One a page at most.
    private(set) var shown: ContiguousArray<Int> = []

    init(_ scenario: borrowing Scenario, words: ContiguousArray<UInt64>, bug: SeededBug?, seed: UInt64) {
        layout = scenario.layout
        self.bug = bug
        guest = GuestMemory(scenario, words: words)
        outgoing = BoundedQueue(capacity: scenario.outgoingLength)
        recorded = PageBitmap(pageCount: layout.totalPages)
        parked = BoundedQueue(capacity: 4 * layout.totalPages + 64)
        parkedInSlab = Array(repeating: 0, count: scenario.laneCount)
        let slabPages = FrameLimits.mostPageBytes / PageSize.fourKiB.bytes
        slabs = Array(repeating: ContiguousArray(repeating: 0, count: min(slabPages, layout.totalPages)), count: scenario.laneCount)
        refusalPercent = scenario.refusalPercent
        receivesInPlace = scenario.receivesInPlace
        random = SeededRandom(seed: seed)
        shown.reserveCapacity(layout.totalPages)
    }

    // MARK: Death

    /// Whether this step is still taken.
    private mutating func lives() -> Bool {
        guard !isDead, let left = stepsLeft else { return !isDead }
        stepsLeft = left - 1
        isDead = left == 0
        return !isDead
    }

    mutating func die(afterSteps steps: Int, atCopy: Bool) {
        diesAtCopy = atCopy
        if atCopy { return }
        stepsLeft = steps
        isDead = steps == 0
    }

    /// Another daemon begins: all that the dead one had in its own memory is gone.
    mutating func beginAnew() {
        stepsLeft = nil
        diesAtCopy = false
        isDead = false
        forgetOutgoing()
        while parked.popFirst() != nil {}
        for lane in parkedInSlab.indices { parkedInSlab[lane] = 0 }
        guest.daemonDied(recorded)
    }

    mutating func removalIsCut(_ range: PageRange) { guest.removalIsCut(layout.sessionPages(range), recorded) }

    /// What is on record, as a daemon that begins reads it.
    func readRecord() -> PageBitmap {
        var pages = PageBitmap(pageCount: layout.totalPages)
        for page in 0..<layout.totalPages where recorded.contains(page) { pages.insert(page) }
        return pages
    }

    // MARK: Frames

    var nextOutgoing: FrameHeader? { outgoing.first }
    mutating func outgoingSent() { outgoing.popFirst() }

    /// The link is gone: what waits to be sent is told otherwise on the next one.
    mutating func forgetOutgoing() {
        while outgoing.popFirst() != nil {}
        hasReported = false
    }

    mutating func request(_ window: PageRange, demanded: PageIndex, stride: Int) -> Bool {
        var header = FrameHeader(.request, range: window)
        header.argument = UInt64(demanded)
        header.stride = stride
        return outgoing.append(header) || bug == .losesDemands
    }

    mutating func prefetch(_ window: PageRange, stride: Int) -> Bool {
        var header = FrameHeader(.prefetch, range: window)
        header.stride = stride
        return outgoing.append(header)
    }

    mutating func grantCredit(bytes: Int) -> Bool {
        if bug == .losesCredit, guest.isMapped.setCount > 0 { return true }
        return outgoing.append(FrameHeader(.credit, argument: UInt64(bytes)))
    }

    mutating func reportRemoved(_ range: PageRange) -> Bool {
        outgoing.append(FrameHeader(.removed, range: range)) || bug == .losesRemovals
    }

    mutating func reportAllResident() -> Bool {
        if hasReported { guest.fail(.residentTwice) }
        guard parked.isEmpty, outgoing.append(FrameHeader(.allResident)) else { return false }
        hasReported = true
        return true
    }

    // MARK: Bytes

    /// A piece of a frame's payload arrives where its placement says.
    mutating func receive(_ header: FrameHeader, _ placement: Placement, _ chunk: Chunk, lane: Int, words: ContiguousArray<UInt64>) {
        guard lives() else { return }
        let shift = layout[header.region].pageSize.shift
        let first = layout.sessionPage(header.region, header.firstPage)
        var from = chunk.from
        while from < chunk.to {
            let number = from >> shift
            let to = min(chunk.to, (number + 1) << shift)
            switch placement {
            case .direct: guest.receive(first + number, bytes: to - from, word: words[first + number])
            case .slab: slabs[lane][number] = words[first + number]
            case .discard: break
            }
            from = to
        }
    }

    // MARK: Making pages visible

    private mutating func isRefused() -> Bool {
        unreadRemovals > 0 || (refusalPercent > 0 && random.chance(percent: refusalPercent))
    }

    private mutating func noteShown(_ page: Int) { shown.append(page) }

    mutating func takeShown() { shown.removeAll(keepingCapacity: true) }

    mutating func install(_ range: PageRange) {
        guard lives() else { return }
        if isRefused() { return park(.install(range)) }
        for page in layout.sessionPages(range) {
            guest.install(page)
            noteShown(page)
        }
    }

    mutating func installFromSlab(_ range: PageRange, lane: Int, byteOffset: Int) {
        if receivesInPlace[Int(range.region)], bug != .copiesIntoMapped { return fill(range, lane: lane, byteOffset: byteOffset) }
        if bug == .recordsCopiesEarly { record(range) }
        if isRefused() { return park(.fromSlab(range, lane: lane, byteOffset: byteOffset)) }
        let offset = byteOffset >> layout[range.region].pageSize.shift
        let first = layout.sessionPage(range.region, range.first)
        for number in 0..<range.count {
            guard lives() else { return }
            guest.copy(first + number, word: slabs[lane][offset + number])
            noteShown(first + number)
        }
        if diesAtCopy { isDead = true }
        // Only now: what a copy brings is nowhere else.
        record(range)
    }

    /// By way of the second mapping, so that they are on record before the guest can write to them.
    private mutating func fill(_ range: PageRange, lane: Int, byteOffset: Int) {
        let shift = layout[range.region].pageSize.shift
        let first = layout.sessionPage(range.region, range.first)
        for number in 0..<range.count {
            guard lives() else { return }
            guest.receive(first + number, bytes: 1 << shift, word: slabs[lane][byteOffset >> shift + number])
        }
        if diesAtCopy { isDead = true }
        record(range)
        install(range)
    }

    mutating func resolve(_ region: RegionIndex, _ page: PageIndex) {
        // The parked copy will wake the thread; zeros in its place would be taken for the page's content.
        guard lives() else { return }
        if bug != .resolvesParkedCopies, isParkedInSlab(region, page) { return }
        if isRefused() { return park(.resolve(region, page)) }
        let number = layout.sessionPage(region, page)
        if bug == .leavesHeldFaults, guest.holds(number) { return }
        guest.resolve(number)
        noteShown(number)
    }

    mutating func record(_ range: PageRange) {
        guard lives() else { return }
        recorded.insert(layout.sessionPages(range))
    }

    mutating func erase(_ range: PageRange) {
        if bug == .leavesLateBytes || (bug == .keepsHalfPages && isLosingLanes)
            || (bug == .keepsStaleBytes && isTakingOver)
        {
            return
        }
        guard lives() else { return }
        for page in layout.sessionPages(range) { guest.erase(page) }
    }

    // MARK: Parked work

    var hasParked: Bool { !parked.isEmpty }

    func isSlabInUse(_ lane: Int) -> Bool { parkedInSlab[lane] > 0 }

    private mutating func isParkedInSlab(_ region: RegionIndex, _ page: PageIndex) -> Bool {
        guard parkedInSlab.contains(where: { $0 > 0 }) else { return false }
        var isFound = false
        // One turn of the queue leaves it as it was.
        for _ in 0..<parked.count {
            guard let work = parked.popFirst() else { break }
            if case .fromSlab(let range, _, _) = work, range.region == region, range.contains(page) { isFound = true }
            _ = parked.append(work)
        }
        return isFound
    }

    private mutating func park(_ work: Parked) {
        if bug == .forgetsParked || isDead { return }
        guard parked.append(work) else { return guest.fail(.parkedWithoutBound) }
        if case .fromSlab(_, let lane, _) = work { parkedInSlab[lane] += 1 }
    }

    private mutating func takeParked() -> Parked? {
        guard let work = parked.popFirst() else { return nil }
        if case .fromSlab(_, let lane, _) = work { parkedInSlab[lane] -= 1 }
        return work
    }

    mutating func retryParked() {
        for _ in 0..<parked.count {
            guard let work = takeParked() else { return }
            switch work {
            case .install(let range): install(range)
            case .fromSlab(let range, let lane, let byteOffset): installFromSlab(range, lane: lane, byteOffset: byteOffset)
            case .resolve(let region, let page): resolve(region, page)
            }
        }
    }

    /// The guest gave pages up whose installation waits: they must never appear.
    mutating func dropParked(_ removed: PageRange) {
        if bug == .installsRemovedParked { return }
        for _ in 0..<parked.count {
            guard let work = takeParked() else { return }
            switch work {
            case .install(let range) where range.overlaps(removed):
                split(range, removed) { .install($0) }
            case .fromSlab(let range, let lane, let byteOffset) where range.overlaps(removed):
                let shift = layout[range.region].pageSize.shift
                split(range, removed) { .fromSlab($0, lane: lane, byteOffset: byteOffset + ($0.first - range.first) << shift) }
            default:
                park(work)
            }
        }
    }

    private mutating func split(_ range: PageRange, _ removed: PageRange, _ rest: (PageRange) -> Parked) {
        for page in range.first..<range.end {
            let one = PageRange(region: range.region, first: page, count: 1)
            if removed.contains(page) {
                erase(one)
                if bug != .forgetsRemovedCopies { record(one) }
                park(.resolve(range.region, page))
            } else {
                park(rest(one))
            }
        }
    }
}
