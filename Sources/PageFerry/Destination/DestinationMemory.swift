import Glibc
import PageCore
import PageEngine
import PageTransport
import PageWire
import Userfault

/// Guest memory as the destination's shard sees it: where each region lies in the VMM, where its bytes are received,
/// and what the kernel still refuses. Fulfils the engine's wishes.
struct DestinationMemory: ~Copyable, DestinationSink {
    /// Frames for the source waiting for room on the urgent lane.
    private static let outgoingLength = 256
    /// Installs the kernel refused while an event waited to be read. A fault parks one entry, an extent one.
    private static let parkedLength = 4096

    /// Whether the source may hear that every page is in: not before the guest runs here, for then it ends the session.
    var mayReportAllResident = true
    /// Whether the source's memory is final: before that it does not believe that every page is in, though all may be given up by then.
    var isSourceFinal = false
    private let layout: RegionLayout
    private let regions: DestinationRegions
    private var slabs: Slabs
    /// Set when pages are fetched by RDMA in place of being asked for.
    var fetcher: PageFetcher?
    /// The memory as RDMA knows it, with a fetcher.
    let registration: DestinationRegistration?
    /// False with a registration when the link over RDMA was lost and TCP took its place.
    var isFetching: Bool { slotCount != nil }
    /// Pieces that may be on their way; nil when pages are sent and not fetched.
    private(set) var slotCount: Int?
    private var slabCount: Int
    private var outgoing = BoundedQueue<FrameHeader>(capacity: DestinationMemory.outgoingLength)
    private var parked = BoundedQueue<Parked>(capacity: DestinationMemory.parkedLength)
    /// Parked pieces by slab.
    private var parkedInSlab: [Int]
    var ledger = FaultLedger()
    /// What is settled, for a daemon that takes over.
    private var residents: ResidentRecord?
    /// What the kernel said when it could not fill guest memory at all.
    private(set) var failure: SessionError?

    init(
        layout: RegionLayout, regions: DestinationRegions, laneCount: Int, fetcher: consuming PageFetcher?
    ) throws(SessionError) {
        self.layout = layout
        self.regions = regions
        registration = fetcher?.registration
        slotCount = registration?.slotCount
        parkedInSlab = Array(repeating: 0, count: registration?.slotCount ?? laneCount)
        slabCount = registration == nil ? laneCount : 1
        slabs = try Slabs(count: slabCount)
        self.fetcher = fetcher
    }

    /// Where bytes lie that were received by lane, or by slot when they were fetched.
    private func slabAddress(_ number: Int, _ byteOffset: Int) -> UInt {
        fetcher?.slabAddress(number, byteOffset) ?? slabs.address(number, byteOffset)
    }

    /// Whether windows or, unless it rests, the push could be fetched now.
    func hasUndemandedFetches(isPushResting: Bool) -> Bool {
        fetcher?.hasUndemanded(isPushResting: isPushResting) ?? false
    }

    /// Frees the slots of fetched pieces that are all installed by now.
    mutating func freeLingering() {
        fetcher?.freeLingering { [parkedInSlab] slot in parkedInSlab[slot] > 0 }
    }

    // MARK: Links

    /// The link is lost: what waits to be sent is told otherwise on the next one.
    mutating func forgetOutgoing() {
        while outgoing.popFirst() != nil {}
    }

    /// Makes ready for the lanes of a new link, over which pages are fetched or sent.
    ///
    /// - Precondition: nothing is parked, so no slab is in use.
    mutating func resume(laneCount: Int, fetches: Bool, _ layout: RegionLayout, _ method: PushMethod) {
        precondition(parked.isEmpty, "what is parked was received over the link before")
        forgetOutgoing()
        slotCount = fetches ? registration?.slotCount : nil
        if fetches, let registration {
            fetcher = PageFetcher(layout: layout, registration: registration, method: method)
            parkedInSlab = Array(repeating: 0, count: registration.slotCount)
            return
        }
        fetcher = nil
        parkedInSlab = Array(repeating: 0, count: laneCount)
        guard slabCount < laneCount else { return }
        do throws(SessionError) {
            slabs = try Slabs(count: laneCount)
            slabCount = laneCount
        } catch {
            fail(error)
        }
    }

    // MARK: Userfaultfds

    var userfaultCount: Int { regions.userfaultCount }
    func userfaultDescriptor(_ number: Int) -> Int32 { regions.userfaultDescriptor(number) }

    /// - Returns: false when there is nothing more to read now.
    mutating func readEvents(_ number: Int, into events: inout UserfaultEventBatch) -> Bool {
        do throws(UserfaultError) {
            return try regions.readEvents(number, into: &events)
        } catch {
            fail(.memory(error.description))
            return false
        }
    }

    func hasUnreadChanges(_ number: Int) -> Bool { regions.hasUnreadChanges(number) }

    /// The page that holds an address of the VMM, or nil when it is none of ours.
    func locate(_ address: UInt) -> (RegionIndex, PageIndex)? { regions.locate(address) }

    /// The whole pages of a region's piece inside a run of the VMM's addresses.
    func pages(of region: RegionIndex, piece: Int, from start: UInt, to end: UInt) -> PageRange? {
        regions.pages(of: region, piece: piece, from: start, to: end)
    }

    func pieceCount(_ region: RegionIndex) -> Int { regions.pieceCount(region) }

    // MARK: Regions that are taken out

    func isReleased(_ region: RegionIndex) -> Bool { regions.isReleased(Int(region)) }

    /// Wakes who waits for a region's pages, and takes its userfaultfd out of the way.
    mutating func unregister(_ region: RegionIndex) {
        if let refusal = regions.unregister(Int(region)) { fail(refusal) }
    }

    /// Closes everything that holds a region's memory, whose pages are all given up and of which nothing is being received.
    mutating func release(_ region: RegionIndex) {
        for _ in 0..<parked.count {
            // What the kernel refused there, nobody waits for any more.
            if let work = takeParked(), work.region != region { park(work) }
        }
        ledger.end(sessionPages: layout.sessionPages(layout.wholeRange(region)))
        registration?.release(region)
        regions.release(region)
    }

    mutating func unregisterAll() {
        if let refusal = regions.unregisterAll() { fail(refusal) }
    }

    // MARK: Frames

    /// Where the payload of a frame goes.
    func target(_ placement: Placement, _ lane: LaneIndex) -> PayloadTarget {
        switch placement {
        case .direct(let range): regions.target(range)
        case .slab: slabs.target(lane)
        case .discard: .discard
        }
    }

    var nextOutgoing: FrameHeader? { outgoing.first }

    mutating func outgoingSent() { outgoing.popFirst() }

    /// Queues a frame that the protocol allows only a handful of.
    mutating func enqueue(_ header: FrameHeader) {
        if !outgoing.append(header) { fail(.linkLost("the source takes nothing any more")) }
    }

    mutating func request(_ window: PageRange, demanded: PageIndex, stride: Int) -> Bool {
        if isFetching {
            // The range is the engine's own, so the planner has nothing to object to.
            do throws(EngineViolation) { try fetcher!.planner.request(window: window, demanded: demanded, stride: stride) } catch {
                fail(.violation(error))
            }
            return true
        }
        var header = FrameHeader(.request, range: window)
        header.argument = UInt64(demanded)
        header.stride = stride
        return outgoing.append(header)
    }

    mutating func prefetch(_ window: PageRange, stride: Int) -> Bool {
        if isFetching {
            do throws(EngineViolation) { try fetcher!.planner.prefetch(window, stride: stride) } catch { fail(.violation(error)) }
            return true
        }
        var header = FrameHeader(.prefetch, range: window)
        header.stride = stride
        return outgoing.append(header)
    }

    mutating func grantCredit(bytes: Int) -> Bool {
        if isFetching {
            do throws(EngineViolation) { try fetcher!.planner.credit(bytes: UInt64(bytes)) } catch { fail(.violation(error)) }
            return true
        }
        return outgoing.append(FrameHeader(.credit, argument: UInt64(bytes)))
    }

    mutating func reportRemoved(_ range: PageRange) -> Bool {
        if isFetching {
            fetcher!.planner.settled(range)
            return true
        }
        return outgoing.append(FrameHeader(.removed, range: range))
    }

    mutating func reportAllResident() -> Bool {
        mayReportAllResident && isSourceFinal && parked.isEmpty && outgoing.append(FrameHeader(.allResident))
    }

    // MARK: Making pages visible

    /// Puts everything that settles from here on on record.
    mutating func keep(_ record: ResidentRecord?) { residents = record }

    mutating func record(_ range: PageRange) { residents?.insert(layout.sessionPages(range)) }

    /// Lets every waiting thread fault anew: a daemon that died has taken its fault along.
    mutating func wakeAll() {
        if let refusal = regions.wakeAll() { fail(refusal) }
    }

    mutating func install(_ range: PageRange) {
        var rest = range
        while rest.count > 0 {
            let outcome = regions.install(rest)
            guard let before = pagesBeforeFreed(outcome, rest.region) else { return finish(outcome, .install(rest), rest) }
            // Freed without an event, or before it: given up. Whoever touches it nevertheless faults anew, and gets zeros then.
            let freed = PageRange(region: rest.region, first: rest.first + before, count: 1)
            ledger.end(sessionPages: layout.sessionPages(PageRange(region: rest.region, first: rest.first, count: before + 1)))
            if let refusal = regions.wake(freed) { fail(refusal) }
            rest = PageRange(region: rest.region, first: freed.end, count: rest.end - freed.end)
        }
    }

    mutating func installFromSlab(_ range: PageRange, lane: Int, byteOffset: Int) {
        let isMapped = regions.isMapped(range.region)
        // By way of mapping B where a record is kept, which the pages are on before the guest can write to them: a copy shows them first.
        if isMapped, residents != nil { return fillFromSlab(range, lane: lane, byteOffset: byteOffset) }
        let outcome = regions.copy(range, from: slabAddress(lane, byteOffset))
        if isMapped, let present = pagesBeforePresent(outcome, range.region) {
            // The file holds something there that was never visible, half of what a lost link brought for instance.
            ledger.end(sessionPages: layout.sessionPages(PageRange(region: range.region, first: range.first, count: present)))
            let rest = PageRange(region: range.region, first: range.first + present, count: range.count - present)
            return fillFromSlab(rest, lane: lane, byteOffset: byteOffset + layout.byteCount(range.region, pages: present))
        }
        finish(outcome, .fromSlab(range, lane: lane, byteOffset: byteOffset), range)
    }

    private mutating func fillFromSlab(_ range: PageRange, lane: Int, byteOffset: Int) {
        if let text = regions.fill(range, from: slabAddress(lane, byteOffset)) { return fail(.memory(text)) }
        record(range)
        install(range)
    }

    /// How many pages a copy put in before it met one that the file holds already; nil when it met none.
    private func pagesBeforePresent(_ outcome: InstallOutcome, _ region: RegionIndex) -> Int? {
        switch outcome {
        case .failed(code: EEXIST): 0
        case .partially(let doneBytes, .failed(code: EEXIST)): doneBytes >> layout.pageShift(region)
        default: nil
        }
    }

    mutating func resolve(_ region: RegionIndex, _ page: PageIndex) {
        // A copy of the page waits for the kernel: it will wake the thread. Zeros now would keep the content out for good.
        guard !isParkedInSlab(region, page) else { return }
        let range = PageRange(region: region, first: page, count: 1)
        finish(regions.resolve(range), .resolve(region, page), range)
    }

    mutating func erase(_ range: PageRange) {
        if let text = regions.erase(range) { fail(.memory(text)) }
    }

    private mutating func finish(_ outcome: InstallOutcome, _ work: Parked, _ range: PageRange) {
        switch outcome {
        case .installed, .alreadyPresent:
            // Only now: what a copy brings is nowhere else.
            if case .fromSlab = work { record(range) }
            ledger.end(sessionPages: layout.sessionPages(range))
        case .partially(let doneBytes, let obstacle):
            let done = doneBytes >> layout.pageShift(range.region)
            let installed = PageRange(region: range.region, first: range.first, count: done)
            if case .fromSlab = work { record(installed) }
            ledger.end(sessionPages: layout.sessionPages(installed))
            let rest = PageRange(region: range.region, first: range.first + done, count: range.count - done)
            stopped(by: obstacle, work.behind(rest, skippedBytes: doneBytes), rest)
        case .retryAfterEvents: stopped(by: .retryAfterEvents, work, range)
        case .vmmGone: stopped(by: .vmmGone, work, range)
        case .unregistered: stopped(by: .unregistered, work, range)
        case .failed(let code): stopped(by: .failed(code: code), work, range)
        }
    }

    private mutating func stopped(by obstacle: InstallObstacle, _ work: Parked, _ range: PageRange) {
        switch obstacle {
        case .retryAfterEvents:
            park(work)
        case .unregistered:
            // The VMM unmapped the range: nobody can fault on it any more.
            ledger.end(sessionPages: layout.sessionPages(range))
        case .vmmGone:
            fail(.processEnded)
        case .failed(let code):
            fail(.memory("the kernel could not fill guest pages \(range): \(SystemError.text(code))"))
        }
    }

    /// How many pages lie before one that its VMM has freed in the file since its bytes were there; nil when none stopped the install.
    private func pagesBeforeFreed(_ outcome: InstallOutcome, _ region: RegionIndex) -> Int? {
        switch outcome {
        case .failed(EFAULT): 0
        case .partially(let doneBytes, .failed(EFAULT)): doneBytes >> layout.pageShift(region)
        default: nil
        }
    }

    private mutating func fail(_ error: SessionError) {
        if failure == nil { failure = error }
    }

    // MARK: Parked work

    var hasParked: Bool { !parked.isEmpty }

    /// Whether a lane's slab, or a fetched piece's, holds pages the kernel has refused so far.
    func isSlabInUse(_ number: Int) -> Bool { parkedInSlab[number] > 0 }

    private mutating func park(_ work: Parked) {
        guard parked.append(work) else {
            return fail(
                .memory("the kernel refused to fill guest memory \(Self.parkedLength) times over; the VMM changes its mappings without end")
            )
        }
        if case .fromSlab(_, let lane, _) = work { parkedInSlab[lane] += 1 }
    }

    private mutating func takeParked() -> Parked? {
        guard let work = parked.popFirst() else { return nil }
        if case .fromSlab(_, let lane, _) = work { parkedInSlab[lane] -= 1 }
        return work
    }

    /// Tries everything parked once more; what is refused again waits on.
    mutating func retryParked() {
        for _ in 0..<parked.count {
            guard failure == nil, let work = takeParked() else { return }
            perform(work)
        }
    }

    private mutating func perform(_ work: Parked) {
        switch work {
        case .install(let range): install(range)
        case .fromSlab(let range, let lane, let byteOffset):
            installFromSlab(range, lane: lane, byteOffset: byteOffset)
        case .resolve(let region, let page): resolve(region, page)
        }
    }

    private func isParkedInSlab(_ region: RegionIndex, _ page: PageIndex) -> Bool {
        parkedInSlab.contains { $0 > 0 }
            && parked.contains { work in
                if case .fromSlab(let range, _, _) = work { range.region == region && range.contains(page) } else { false }
            }
    }

    /// The guest gave pages up whose installation waits: they must never appear, so they are erased, and whoever waits
    /// for them gets zeros.
    mutating func dropParked(_ removed: PageRange) {
        for _ in 0..<parked.count {
            guard let work = takeParked() else { return }
            guard let range = work.range, range.overlaps(removed) else {
                park(work)
                continue
            }
            let dropped = range.clamped(to: removed.first..<removed.end)
            if case .install = work { erase(dropped) }
            // The engine took them for settled when they came; a copy was not on record yet.
            record(dropped)
            for rest in [range.clamped(to: 0..<dropped.first), range.clamped(to: dropped.end..<range.end)] where !rest.isEmpty {
                let skippedBytes = layout.byteCount(range.region, pages: rest.first - range.first)
                park(work.behind(rest, skippedBytes: skippedBytes))
            }
            // Threads may wait for any of them: each is given zeros as soon as the kernel lets it.
            for page in dropped.first..<dropped.end where ledger.isWaiting(layout.sessionPage(dropped.region, page)) {
                park(.resolve(dropped.region, page))
            }
        }
    }
}
