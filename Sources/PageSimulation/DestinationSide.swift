import PageCore
import PageEngine
import PageWire

/// The destination host: the engine under test, driven turn by turn as the session's own loop drives it, between
/// simulated lanes and simulated guest memory.
struct DestinationSide: ~Copyable {
    /// What a userfaultfd hands out.
    enum GuestEvent: Sendable {
        case fault(page: Int)
        case removal(PageRange)
    }

    private struct Reception {
        var header: FrameHeader
        var placement: Placement
    }

    var engine: DestinationEngine
    var memory: DestinationAdapter
    private let layout: RegionLayout
    private let bug: SeededBug?
    private let readsFaultsFirst: Bool
    private let configuration: DestinationEngine.Configuration
    private var faults: BoundedQueue<GuestEvent>
    private var removals: BoundedQueue<GuestEvent>
    private var receptions: [Reception?]
    private var hasEnded: [Bool]
    /// Removals whose event was read since the last turn, to be carried out by the kernel now.
    private(set) var readRemovals = 0
    private(set) var receivedPushBytes = 0
    private(set) var isReleased = false
    /// The page last begun to be received: where removals hurt most.
    private(set) var lastPlacedPage = 0
    /// Pages threads are known to wait for and of which no request has gone out yet.
    private var unasked: PageBitmap
    private var wasFaulted: PageBitmap
    private var turnsWithRoom = 0

    init(_ scenario: borrowing Scenario, words: ContiguousArray<UInt64>, bug: SeededBug?, seed: UInt64) {
        layout = scenario.layout
        var configuration = DestinationEngine.Configuration(receivesInPlace: scenario.receivesInPlace, laneCount: scenario.laneCount)
        configuration.window = scenario.window
        configuration.copiesPush = scenario.copiesPush
        configuration.creditBytes = scenario.creditBytes
        self.configuration = configuration
        engine = DestinationEngine(layout: scenario.layout, configuration: configuration)
        engine.replay(scenario.replayed)
        memory = DestinationAdapter(scenario, words: words, bug: bug, seed: seed)
        self.bug = bug
        readsFaultsFirst = scenario.readsFaultsFirst
        // The kernel keeps one event a waiting thread.
        faults = BoundedQueue(capacity: scenario.processorCount)
        removals = BoundedQueue(capacity: scenario.removingThreads)
        unasked = PageBitmap(pageCount: layout.totalPages)
        wasFaulted = PageBitmap(pageCount: layout.totalPages)
        receptions = Array(repeating: nil, count: scenario.laneCount)
        hasEnded = Array(repeating: false, count: scenario.laneCount)
    }

    // MARK: From the guest

    mutating func raiseFault(_ page: Int) {
        // A thread that was woken and faults again has one fault, not two; a daemon that is dead reads neither.
        if faults.isFull { forgetFault(on: page) }
        precondition(faults.append(.fault(page: page)), "a thread waits for one page at a time")
    }

    private mutating func forgetFault(on page: Int) {
        for _ in 0..<faults.count {
            guard let event = faults.popFirst() else { return }
            if case .fault(let other) = event, other == page { return }
            _ = faults.append(event)
        }
    }

    mutating func raiseRemoval(_ range: PageRange) {
        precondition(removals.append(.removal(range)), "a thread gives up one range at a time")
        memory.unreadRemovals += 1
    }

    mutating func takeReadRemovals() -> Int {
        defer { readRemovals = 0 }
        return readRemovals
    }

    /// Reads everything the userfaultfd has.
    mutating func readEvents() {
        guard !faults.isEmpty || !removals.isEmpty else { return }
        if readsFaultsFirst { readFaults() }
        // Reading a removal and putting it on record is one step here: what may happen between the two is decision 10's.
        while !memory.isDead, let removal = removals.popFirst() {
            guard case .removal(let range) = removal else { continue }
            memory.unreadRemovals -= 1
            readRemovals += 1
            if !isReleased { removed(range) }
        }
        readFaults()
    }

    private mutating func readFaults() {
        while !memory.isDead, let event = faults.popFirst() {
            guard case .fault(let page) = event, !isReleased else { continue }
            let region = layout.region(ofSessionPage: page)
            if !engine.isSettled(region, layout.range(region, sessionPages: page..<(page + 1)).first), wasFaulted.insert(page) {
                unasked.insert(page)
            }
            engine.fault(region, layout.range(region, sessionPages: page..<(page + 1)).first, &memory)
        }
    }

    private mutating func removed(_ range: PageRange) {
        for page in range.first..<range.end where !engine.isSettled(range.region, page) {
            memory.guest.giveUp(layout.sessionPage(range.region, page))
        }
        memory.dropParked(range)
        engine.removed(range, &memory)
        if memory.isDead { memory.removalIsCut(range) }
    }

    // MARK: From the lanes

    /// A piece of a frame has arrived on a lane.
    mutating func take(_ chunk: Chunk, lane: Int, words: ContiguousArray<UInt64>) {
        do throws(FrameError) {
            if chunk.isFirst {
                let header = try chunk.frame.decoded()
                if header.payloadBytes == 0 { return arrived(header, lane) }
                place(header, lane)
            }
            guard let reception = receptions[lane] else { return }
            memory.receive(reception.header, reception.placement, chunk, lane: lane, words: words)
            if chunk.isLast || bug == .installsBeforeComplete {
                receptions[lane] = nil
                finish(reception.header, lane)
            }
        } catch {
            memory.guest.fail(.frame(error))
        }
    }

    /// Whether a frame has begun on a lane and not ended.
    func isReceiving(_ lane: Int) -> Bool { receptions[lane] != nil }

    private mutating func place(_ header: FrameHeader, _ lane: Int) {
        guard header.kind == .pages else { return memory.guest.fail(.unexpectedFrame(header.kind)) }
        if hasEnded[lane] { memory.guest.fail(.frameAfterEnd(lane: lane)) }
        // A slab still holds pages the kernel refused: they go first.
        if memory.isSlabInUse(lane), bug != .reusesSlab { emptySlab(lane) }
        do throws(EngineViolation) {
            var placement = try engine.place(header, lane: lane)
            lastPlacedPage = layout.sessionPage(header.region, header.firstPage)
            if bug == .receivesInPlaceAlways, placement == .slab { placement = .direct(header.range) }
            receptions[lane] = Reception(header: header, placement: placement)
            if bug == .recordsBeforeComplete, case .direct(let range) = placement { memory.record(range) }
        } catch {
            memory.guest.fail(.engine(error))
        }
    }

    private mutating func emptySlab(_ lane: Int) {
        var rounds = 0
        while memory.isSlabInUse(lane), !memory.isDead {
            readEvents()
            memory.retryParked()
            rounds += 1
            if rounds > 10_000 { return memory.guest.fail(.slabNeverFree(lane: lane)) }
        }
    }

    private mutating func finish(_ header: FrameHeader, _ lane: Int) {
        if header.reason == .push { receivedPushBytes += header.payloadBytes }
        engine.arrived(header, lane: lane, &memory)
    }

    private mutating func arrived(_ header: FrameHeader, _ lane: Int) {
        do throws(EngineViolation) {
            switch header.kind {
            case .zeroPages:
                if hasEnded[lane] { memory.guest.fail(.frameAfterEnd(lane: lane)) }
                if bug == .leavesZeroFaults, header.reason == .demand { return }
                try engine.zero(header.range, &memory)
            case .allSent:
                if hasEnded[lane] { memory.guest.fail(.frameAfterEnd(lane: lane)) }
                hasEnded[lane] = true
                try engine.ended(lane: lane)
            case .guestStopped:
                break
            default:
                memory.guest.fail(.unexpectedFrame(header.kind))
            }
        } catch {
            memory.guest.fail(.engine(error))
        }
    }

    // MARK: The rest of a turn

    /// Sends what is due on the urgent lane.
    ///
    /// - Returns: whether work is left that has no event of its own.
    mutating func finishTurn(_ link: borrowing SimulatedLink) -> Bool {
        if memory.isDead { return false }
        if memory.hasParked { memory.retryParked() }
        let isComplete = bug == .releasesWhileWriting ? engine.missingPages == 0 : engine.isComplete
        if isComplete, !memory.hasParked, !isReleased, !memory.isDead {
            isReleased = true
            memory.guest.release()
        }
        engine.retry(&memory)
        while !memory.isDead, let header = memory.nextOutgoing, link.submit(header, lane: 0) {
            if header.kind == .request { noteAsked(layout.sessionPage(header.region, PageIndex(header.argument))) }
            memory.outgoingSent()
        }
        if memory.isDead { return false }
        checkAsked()
        return memory.hasParked || (memory.nextOutgoing == nil && engineOwesSomething)
    }

    private mutating func noteAsked(_ page: Int) {
        unasked.remove(page)
        turnsWithRoom = 0
    }

    /// A demand may wait for room behind others, but not while there is room turn after turn.
    private mutating func checkAsked() {
        guard unasked.setCount > 0, memory.nextOutgoing == nil else { return }
        var from = 0
        while let page = unasked.firstSet(in: from..<layout.totalPages) {
            from = page + 1
            let region = layout.region(ofSessionPage: page)
            if engine.isSettled(region, layout.range(region, sessionPages: page..<(page + 1)).first) { unasked.remove(page) }
        }
        turnsWithRoom = unasked.setCount > 0 ? turnsWithRoom + 1 : 0
        if turnsWithRoom > 8, let page = unasked.firstSet(in: 0..<layout.totalPages) { memory.guest.fail(.demandNotAsked(page: page)) }
    }

    /// After a full queue was emptied, what the engine could not queue is due at once.
    private var engineOwesSomething: Bool { engine.isComplete && !memory.hasReported }

    /// The link is gone in the middle of everything, and will be found again.
    mutating func loseLink() {
        memory.isLosingLanes = true
        for lane in receptions.indices {
            receptions[lane] = nil
            hasEnded[lane] = false
        }
        engine.linkLost(&memory)
        memory.isLosingLanes = false
        memory.forgetOutgoing()
    }

    /// Another daemon takes over from the one that died: it has the record and the kernel's events, and looks for the source.
    mutating func takeOver() {
        memory.beginAnew()
        for lane in receptions.indices {
            receptions[lane] = nil
            hasEnded[lane] = false
        }
        engine = DestinationEngine(layout: layout, configuration: configuration)
        memory.isTakingOver = true
        defer { memory.isTakingOver = false }
        if bug != .forgetsTheRecord { engine.adopt(resident: memory.readRecord(), &memory) }
        unasked.removeAll()
        wasFaulted.removeAll()
        // Who is woken faults anew: the kernel forgets what it had not handed out.
        if bug != .forgetsToWake { while faults.popFirst() != nil {} }
    }

    /// The lanes are there again: everything that threads wait for is asked for once more.
    mutating func restoreLink() {
        unasked.removeAll()
        var from = 0
        while let page = wasFaulted.firstSet(in: from..<layout.totalPages) {
            from = page + 1
            let region = layout.region(ofSessionPage: page)
            if !engine.isSettled(region, layout.range(region, sessionPages: page..<(page + 1)).first) { unasked.insert(page) }
        }
        turnsWithRoom = 0
        if bug == .forgetsDemandsOfLostLinks {
            // What was asked for is taken for asked.
            unasked.removeAll()
            return
        }
        engine.linkRestored(laneCount: receptions.count, &memory)
    }

    /// A turn without lanes: faults and removals are taken all the same.
    ///
    /// - Returns: whether work is left that has no event of its own.
    mutating func turnWithoutLink() -> Bool {
        readEvents()
        if memory.hasParked { memory.retryParked() }
        return memory.hasParked
    }

    /// The link is gone in the middle of everything.
    mutating func loseLanes() {
        memory.isLosingLanes = true
        for lane in receptions.indices {
            receptions[lane] = nil
            engine.laneLost(lane: lane, &memory)
        }
    }
}
