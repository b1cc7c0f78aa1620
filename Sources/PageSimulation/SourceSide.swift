import PageCore
import PageEngine
import PageWire

/// The source host: the engine under test, driven turn by turn as the session's own loop drives it, and a ledger of what
/// went onto the wire, kept without asking the engine.
struct SourceSide: ~Copyable {
    var engine: SourceEngine
    var content: SourceContent
    let bug: SeededBug?
    private let layout: RegionLayout
    private let mostWindowBytesPending: Int
    private let mostBulkBytesPending: Int
    private let outstandingCreditBytes: Int
    private(set) var violation: InvariantViolation?
    private var mustSendGuestStopped = false
    private(set) var isStarted = false
    private(set) var isTold = false
    private(set) var endedLanes: [Int]

    // The ledger.
    private var hasCrossed: PageBitmap
    private var hasCrossedWithBytes: PageBitmap
    private var isGivenUp: PageBitmap
    private var isOutstanding: PageBitmap
    private var creditBytes = 0
    private(set) var pushedBytes = 0
    private var random: SeededRandom

    init(_ scenario: borrowing Scenario, content: consuming SourceContent, bug: SeededBug?, seed: UInt64) {
        layout = scenario.layout
        engine = SourceEngine(layout: scenario.layout, configuration: scenario.source)
        self.content = content
        self.bug = bug
        mostWindowBytesPending = scenario.mostWindowBytesPending
        mostBulkBytesPending = scenario.mostBulkBytesPending
        outstandingCreditBytes = max(scenario.creditBytes, 2 * scenario.largestPageBytes)
        endedLanes = Array(repeating: 0, count: scenario.laneCount)
        hasCrossed = PageBitmap(pageCount: layout.totalPages)
        hasCrossedWithBytes = PageBitmap(pageCount: layout.totalPages)
        isGivenUp = PageBitmap(pageCount: layout.totalPages)
        isOutstanding = PageBitmap(pageCount: layout.totalPages)
        random = SeededRandom(seed: seed)
    }

    mutating func fail(_ violation: InvariantViolation) {
        if self.violation == nil { self.violation = violation }
    }

    mutating func guestStopped() {
        engine.start()
        isStarted = true
        mustSendGuestStopped = true
    }

    /// The daemon has died and was started again: all it knew is gone.
    mutating func restart(_ configuration: SourceEngine.Configuration) {
        engine = SourceEngine(layout: layout, configuration: configuration)
        if isStarted { engine.start() }
    }

    /// The destination is back, and has said what it has.
    mutating func resume(resident payloads: [[UInt8]], receivedPushBytes: Int) {
        var resident = PageBitmap(pageCount: layout.totalPages)
        var next = 0
        do throws(FrameError) {
            for payload in payloads { next = try ResidentPages.decode(payload, into: &resident, next: next) }
        } catch {
            fail(.frame(error))
        }
        if bug != .resumesWithItsOwnIdea { engine.resume(resident: resident) }
        // The ledger: what is not there has never crossed.
        for page in 0..<layout.totalPages {
            if resident.contains(page) {
                hasCrossed.insert(page)
            } else {
                hasCrossed.remove(page)
                hasCrossedWithBytes.remove(page)
            }
        }
        isOutstanding.removeAll()
        creditBytes = 0
        pushedBytes = receivedPushBytes
        endedLanes = Array(repeating: 0, count: endedLanes.count)
        mustSendGuestStopped = isStarted
    }

    // MARK: Frames from the destination

    /// - Parameter isPresent: whether it came on the link the source has now; of others nothing may count.
    mutating func arrived(_ frame: Frame, isPresent: Bool) {
        do throws(FrameError) {
            let header = try frame.decoded()
            do throws(EngineViolation) {
                try handle(header, isPresent)
            } catch {
                fail(.engine(error))
            }
        } catch {
            fail(.frame(error))
        }
    }

    private mutating func handle(_ header: FrameHeader, _ isPresent: Bool) throws(EngineViolation) {
        switch header.kind {
        case .request:
            try engine.request(window: header.range, demanded: PageIndex(header.argument), stride: header.stride)
            let page = layout.sessionPage(header.region, PageIndex(header.argument))
            if !hasCrossed.contains(page), !isGivenUp.contains(page) { isOutstanding.insert(page) }
        case .prefetch:
            try engine.prefetch(header.range, stride: header.stride)
        case .credit:
            try engine.credit(bytes: header.argument)
            if isPresent { creditBytes += Int(header.argument) }
        case .removed:
            try engine.removed(header.range)
            isGivenUp.insert(layout.sessionPages(header.range))
            isOutstanding.remove(layout.sessionPages(header.range))
        case .allResident:
            if isTold { fail(.residentTwice) }
            isTold = true
            if !engine.isAllSent { fail(.residentTooEarly(unsentPages: engine.unsentPages)) }
        default:
            fail(.unexpectedFrame(header.kind))
        }
    }

    // MARK: A turn

    /// Fills the lanes: demands, control, windows, push.
    ///
    /// - Returns: whether something is left that could go at once.
    mutating func sendWhatIsDue(_ link: borrowing SimulatedLink, receivedPushBytes: Int) -> Bool {
        if bug == .ignoresCredit, isStarted, engine.creditBytes == 0 { try? engine.credit(bytes: 1 << 20) }
        var pushed = false
        if bug == .pushesFirst { pushed = push(link, receivedPushBytes) }
        if bug == .announcesEndEarly, isStarted, engine.unsentPages < 4 { announceEnd(link) }
        sendUrgent(link, includingWindows: false)
        if mustSendGuestStopped { mustSendGuestStopped = !link.submit(FrameHeader(.guestStopped), lane: 0) }
        sendUrgent(link, includingWindows: true)
        pushed = push(link, receivedPushBytes) || pushed
        if engine.isAllSent { announceEnd(link) }
        return pushed
    }

    private mutating func sendUrgent(_ link: borrowing SimulatedLink, includingWindows: Bool) {
        while link.lanes[0].freeSlots > 0 {
            let windows = includingWindows && link.lanes[0].pendingBytes < mostWindowBytesPending
            guard let command = engine.nextUrgent(&content, includingWindows: windows) else { return }
            submit(command, 0, link)
        }
    }

    private mutating func push(_ link: borrowing SimulatedLink, _ receivedPushBytes: Int) -> Bool {
        var didPush = false
        let lanes = link.lanes.count == 1 ? 0..<1 : 1..<link.lanes.count
        for lane in lanes {
            guard link.lanes[lane].freeSlots > 8, link.lanes[lane].pendingBytes < mostBulkBytesPending else { continue }
            for _ in 0..<8 {
                guard let command = engine.nextBulk(&content) else { break }
                submit(command, lane, link)
                didPush = true
                if case .pages(let range, _) = command {
                    if bug == .pushesTwice, random.chance(percent: 10) { submit(.pages(range, .push), lane, link) }
                    if pushedBytes - receivedPushBytes > outstandingCreditBytes {
                        fail(.unansweredPushExceeded(bytes: pushedBytes - receivedPushBytes - outstandingCreditBytes))
                    }
                    break
                }
            }
        }
        return didPush
    }

    private mutating func announceEnd(_ link: borrowing SimulatedLink) {
        for lane in 0..<link.lanes.count where endedLanes[lane] == 0 {
            if engine.unsentPages > 0, bug == nil { fail(.endAnnouncedEarly(unsentPages: engine.unsentPages)) }
            if link.submit(FrameHeader(.allSent), lane: lane) { endedLanes[lane] += 1 }
        }
    }

    private mutating func submit(_ command: SourceCommand, _ lane: Int, _ link: borrowing SimulatedLink) {
        let header: FrameHeader
        switch command {
        case .pages(let range, let reason):
            note(range, reason, carriesBytes: true, hasRoom: link.lanes[0].freeSlots > 0)
            header = FrameHeader(
                .pages, reason: reason, range: range, payloadBytes: range.count << layout[range.region].pageSize.shift)
        case .zero(let range, let reason):
            note(range, reason, carriesBytes: false, hasRoom: link.lanes[0].freeSlots > 0)
            header = FrameHeader(.zeroPages, reason: reason, range: range)
        }
        if !link.submit(header, lane: lane) { fail(.laneRefused(lane: lane)) }
    }

    /// What the invariants say of a range that leaves now.
    private mutating func note(_ range: PageRange, _ reason: PageReason, carriesBytes: Bool, hasRoom: Bool) {
        let pages = layout.sessionPages(range)
        if carriesBytes {
            if hasCrossed.count(in: pages) > 0, let page = hasCrossed.firstSet(in: pages) { fail(.crossedTwice(page: page)) }
            hasCrossedWithBytes.insert(pages)
        } else if let page = hasCrossedWithBytes.firstSet(in: pages) {
            // Zeros may be said twice, but never of a page whose bytes went before.
            fail(.crossedTwice(page: page))
        }
        hasCrossed.insert(pages)
        isOutstanding.remove(pages)
        if reason != .demand, hasRoom, isOutstanding.setCount > 0, let page = isOutstanding.firstSet(in: 0..<layout.totalPages) {
            fail(.demandOvertaken(page: page))
        }
        if reason == .push, carriesBytes {
            let bytes = pages.count << layout[range.region].pageSize.shift
            pushedBytes += bytes
            creditBytes -= bytes
            if creditBytes < 0 { fail(.creditExceeded(bytes: -creditBytes)) }
        }
    }
}
