import PageCore
import PageEngine
import PageWire

/// One session from the first access to the last frame: two hosts, the links between them, the guest's threads and its
/// balloon, under one virtual clock.
struct SimulatedSession: ~Copyable {
    let seed: UInt64
    let bug: SeededBug?
    let scenario: Scenario
    let tracer: ((String) -> Void)?
    var clock = VirtualClock()
    var random: SeededRandom
    private let words: ContiguousArray<UInt64>
    var source: SourceSide
    var destination: DestinationSide
    var toDestination: SimulatedLink
    var toSource: SimulatedLink
    var processors: [VirtualProcessor]
    private var removalsLeft: Int
    /// Ranges being given up, in the order of their events.
    private var leaving: BoundedQueue<PageRange>
    private var isSourceTurnDue = false
    private var isDestinationTurnDue = false
    private var isLost = false
    /// Whether there is no link now, and the number of the next one.
    var isDown = false
    var isDestinationDead = false
    /// Of the mishap in which the destination's daemon dies.
    var deadNanoseconds = 0
    /// Whether the source's daemon dies in the same moment.
    var isSourceLostToo = false
    var linkNumber = 0
    /// What the destination has said it has, for the next link.
    var resident: [[UInt8]] = []
    var restoredNanoseconds = 0
    var pendingHandshakeNanoseconds = 0
    var outcome: SimulationOutcome

    /// More events than any drawn session needs.
    private static var mostEvents: Int { 2_000_000 }

    init(seed: UInt64, bug: SeededBug?, tracer: ((String) -> Void)?) {
        self.seed = seed
        self.bug = bug
        self.tracer = tracer
        var random = SeededRandom(seed: seed)
        scenario = Scenario(&random)
        let content = SourceContent(scenario, &random)
        words = content.words
        source = SourceSide(scenario, content: content, bug: bug, seed: random.next())
        destination = DestinationSide(scenario, words: words, bug: bug, seed: random.next())
        toDestination = SimulatedLink(scenario, toDestination: true, seed: random.next())
        toSource = SimulatedLink(scenario, toDestination: false, seed: random.next())
        processors = []
        for number in 0..<scenario.processorCount {
            processors.append(VirtualProcessor(number: number, scenario, seed: random.next()))
        }
        removalsLeft = scenario.removalCount
        leaving = BoundedQueue(capacity: scenario.removingThreads)
        self.random = random
        outcome = SimulationOutcome(seed: seed)
    }

    func trace(_ text: @autoclosure () -> String) {
        if let tracer { tracer("\(clock.now) \(text())") }
    }

    // MARK: The loop

    mutating func run() throws(SimulationFailure) -> SimulationOutcome {
        begin()
        while let event = clock.next() {
            outcome.events += 1
            handle(event)
            wakeThreads()
            try check()
            if isLost { break }
        }
        try finish()
        return outcome
    }

    private mutating func begin() {
        trace("\(scenario)")
        for number in processors.indices { clock.schedule(.processor(number), at: random.next(below: scenario.thinkNanoseconds)) }
        clock.schedule(.guestStops, at: scenario.guestStopNanoseconds)
        // Device loading may fault before the guest has stopped at the source; only a running guest gives pages up.
        if removalsLeft > 0 {
            clock.schedule(.removal, at: scenario.guestStopNanoseconds + random.next(below: 2 * scenario.removalIntervalNanoseconds))
        }
        if let time = scenario.breakNanoseconds { clock.schedule(.laneBreaks, at: time) }
        for (number, mishap) in scenario.mishaps.enumerated() { clock.schedule(.mishap(number), at: mishap.nanoseconds) }
        wakeDestination()
    }

    private mutating func handle(_ event: Event) {
        switch event {
        case .sourceTurn: sourceTurn()
        case .destinationTurn: destinationTurn()
        case .link(let isToDestination): look(isToDestination)
        case .arrival(let isToDestination): isToDestination ? wakeDestination() : wakeSource()
        case .processor(let number): step(number)
        case .guestStops:
            trace("guest stopped at the source")
            source.guestStopped()
            wakeSource()
        case .removal: beginRemoval()
        case .zap: zap()
        case .laneBreaks:
            guard !source.isTold else { return }
            trace("the link breaks")
            isLost = true
            destination.loseLanes()
        case .mishap(let number): mishap(scenario.mishaps[number])
        case .takesOver: takeOver()
        case .relinks(let number): relink(number)
        case .relinked(let number): linkIsBack(number)
        }
    }

    private mutating func look(_ isToDestination: Bool) {
        if isToDestination {
            toDestination.looked()
            if toDestination.transmit(&clock) { wakeSource() }
        } else {
            toSource.looked()
            if toSource.transmit(&clock) { wakeDestination() }
        }
    }

    mutating func wakeSource() {
        guard !isSourceTurnDue else { return }
        isSourceTurnDue = true
        clock.schedule(.sourceTurn, at: clock.now + 1 + random.next(below: scenario.sourceTurnNanoseconds))
    }

    mutating func wakeDestination() {
        guard !isDestinationTurnDue else { return }
        isDestinationTurnDue = true
        clock.schedule(.destinationTurn, at: clock.now + 1 + random.next(below: scenario.destinationTurnNanoseconds))
    }

    // MARK: Turns

    private mutating func sourceTurn() {
        isSourceTurnDue = false
        if isDown { return }
        for lane in 0..<scenario.laneCount {
            while let chunk = toSource.take(lane: lane, now: clock.now) {
                trace("source takes \(Self.text(chunk))")
                if chunk.isLast { source.arrived(chunk.frame) }
            }
        }
        if toSource.transmit(&clock) { wakeDestination() }
        let isBusy = source.sendWhatIsDue(toDestination, receivedPushBytes: destination.receivedPushBytes)
        // A queue that has become shorter is a completion, and a completion ends the wait of the next poll.
        let isShorter = toDestination.transmit(&clock)
        if isBusy || isShorter { wakeSource() }
    }

    private mutating func destinationTurn() {
        isDestinationTurnDue = false
        if isDestinationDead { return }
        defer { if destination.memory.isDead { destinationDies() } }
        if isDown {
            let isBusy = destination.turnWithoutLink()
            scheduleZaps()
            if isBusy { wakeDestination() }
            return
        }
        destination.readEvents()
        var bytesLeft = scenario.bytesConsumedATurn
        let first = random.next(below: scenario.laneCount)
        for step in 0..<scenario.laneCount {
            let lane = (first + step) % scenario.laneCount
            while bytesLeft > 0, let chunk = toDestination.take(lane: lane, now: clock.now) {
                bytesLeft -= chunk.byteCount
                trace("destination takes \(Self.text(chunk)) on lane \(lane)")
                destination.take(chunk, lane: lane, words: words)
            }
        }
        if toDestination.transmit(&clock) { wakeSource() }
        let isBusy = destination.finishTurn(toSource)
        let isShorter = toSource.transmit(&clock)
        scheduleZaps()
        if isBusy || isShorter || bytesLeft <= 0 { wakeDestination() }
    }

    private mutating func scheduleZaps() {
        for _ in 0..<destination.takeReadRemovals() { clock.schedule(.zap, at: clock.now + 1 + random.next(below: 20_000)) }
    }

    // MARK: The guest

    private mutating func step(_ number: Int) {
        processors[number].isWaking = false
        let page: Int
        if let waitingFor = processors[number].waitingFor {
            page = waitingFor
        } else {
            guard processors[number].accessesLeft > 0, !source.isTold else { return }
            page = processors[number].nextPage()
            processors[number].waitingSince = clock.now
        }
        let version = processors[number].nextWrite(percent: scenario.writePercent)
        if destination.memory.guest.access(page, writing: version) {
            if processors[number].waitingFor != nil { noteAnswered(number, page) }
            processors[number].waitingFor = nil
            clock.schedule(.processor(number), at: clock.now + processors[number].thinkNanoseconds(around: scenario.thinkNanoseconds))
        } else {
            trace("processor \(number) faults on page \(page)")
            outcome.faults += 1
            processors[number].waitingFor = page
            destination.raiseFault(page)
            wakeDestination()
        }
    }

    /// How long a thread has waited, the time before the memory was final left out, and that until the link was found again.
    private func waited(_ number: Int) -> Int {
        isDown ? 0 : clock.now - max(processors[number].waitingSince, scenario.guestStopNanoseconds, restoredNanoseconds)
    }

    private mutating func noteAnswered(_ number: Int, _ page: Int) {
        let waited = waited(number)
        trace("processor \(number) goes on with page \(page) after \(waited) ns")
        outcome.longestFaultNanoseconds = max(outcome.longestFaultNanoseconds, waited)
        if waited > scenario.faultBoundNanoseconds {
            destination.memory.guest.fail(.faultUnanswered(page: page, waitedNanoseconds: waited))
        }
    }

    /// Wakes the threads whose pages became visible, and all of them once the ranges are unregistered.
    private mutating func wakeThreads() {
        if destination.memory.shown.isEmpty, !destination.isReleased { return }
        for number in processors.indices {
            guard let page = processors[number].waitingFor, !processors[number].isWaking else { continue }
            guard destination.isReleased || destination.memory.shown.contains(page) else { continue }
            processors[number].isWaking = true
            clock.schedule(.processor(number), at: clock.now + 1)
        }
        destination.memory.takeShown()
    }

    // MARK: The balloon

    private mutating func beginRemoval() {
        guard removalsLeft > 0, !source.isTold else { return }
        removalsLeft -= 1
        clock.schedule(.removal, at: clock.now + 1 + random.next(below: 2 * scenario.removalIntervalNanoseconds))
        guard !leaving.isFull else { return }
        let layout = scenario.layout
        // Often where pages are just coming in: that is where orders matter.
        let near = destination.lastPlacedPage + random.next(below: 32)
        var page = near < layout.totalPages && random.chance(percent: 50) ? near : random.next(below: layout.totalPages)
        // And where somebody waits.
        if random.chance(percent: 20), let wanted = processors[random.next(below: processors.count)].waitingFor { page = wanted }
        let region = layout.region(ofSessionPage: page)
        let first = layout.range(region, sessionPages: page..<(page + 1)).first
        let count = min(1 + random.next(below: scenario.mostRemovedPages), layout[region].pageCount - first)
        let range = PageRange(region: region, first: first, count: count)
        guard destination.memory.guest.leave(layout.sessionPages(range)), leaving.append(range) else { return }
        trace("the guest gives up \(range)")
        if destination.isReleased {
            clock.schedule(.zap, at: clock.now + 1)
        } else {
            destination.raiseRemoval(range)
            wakeDestination()
        }
    }

    private mutating func zap() {
        guard let range = leaving.popFirst() else { return }
        trace("the kernel takes \(range) away")
        destination.memory.guest.zap(scenario.layout.sessionPages(range))
    }

    // MARK: Checks

    private func failure(_ violation: InvariantViolation) -> SimulationFailure {
        SimulationFailure(seed: seed, bug: bug, nanoseconds: clock.now, violation: violation)
    }

    private func check() throws(SimulationFailure) {
        if let violation = destination.memory.guest.violation { throw failure(violation) }
        if let violation = source.violation { throw failure(violation) }
        if outcome.events > Self.mostEvents || clock.now > scenario.sessionBoundNanoseconds, !source.isTold {
            throw failure(.lastsTooLong(missingPages: destination.engine.missingPages))
        }
    }

    private mutating func finish() throws(SimulationFailure) {
        fillOutcome()
        if isLost {
            let engine = SettledPages(destination.engine)
            destination.memory.guest.checkAfterLoss { engine.contains($0) }
            return try check()
        }
        guard source.isTold else { throw failure(.nothingHappens(missingPages: destination.engine.missingPages)) }
        for processor in processors {
            guard let page = processor.waitingFor else { continue }
            throw failure(.faultUnanswered(page: page, waitedNanoseconds: clock.now - processor.waitingSince))
        }
        if destination.engine.waitingPages > 0 { throw failure(.waitersLeft(pages: destination.engine.waitingPages)) }
        for lane in 0..<scenario.laneCount where source.endedLanes[lane] != 1 { throw failure(.endNotAnnounced(lane: lane)) }
        try checkCounts()
        destination.memory.guest.readEverything()
        try check()
    }

    private mutating func fillOutcome() {
        outcome.nanoseconds = clock.now
        outcome.pages = scenario.layout.totalPages
        outcome.bytes = scenario.layout.totalBytes
        outcome.lanes = scenario.laneCount
        outcome.faultBoundNanoseconds = scenario.faultBoundNanoseconds
        outcome.source = source.engine.counts
        outcome.destination = destination.engine.counts
        outcome.isLaneLost = isLost
    }

    /// Both sides tell the same story: what left has come, or was dropped because the guest gave it up.
    private func checkCounts() throws(SimulationFailure) {
        let sent = outcome.source
        let here = outcome.destination
        let sentPages = sent.demand + sent.window + sent.push
        let herePages = here.demand + here.window + here.push
        let disagreement: String? =
            if outcome.lostLinks == 0, sentPages != herePages + here.dropped {
                "\(sentPages) pages sent, \(herePages) here, \(here.dropped) dropped"
            } else if outcome.lostLinks == 0, sent.contentBytes != here.contentBytes {
                "\(sent.contentBytes) bytes sent, \(here.contentBytes) received"
            } else if sentPages + sent.zero + sent.removed + sent.found - sent.lost != outcome.pages {
                "the source's do not add up: \(sent)"
            } else if herePages + here.zero + here.removed + here.found != outcome.pages {
                "the destination's do not add up: \(here)"
            } else if outcome.lostLinks == 0, here.zero > sent.zero || here.removed < sent.removed {
                "zeros \(sent.zero), \(here.zero); removed \(sent.removed), \(here.removed)"
            } else {
                nil
            }
        if let disagreement { throw failure(.countsDisagree(disagreement)) }
    }

    private static func text(_ chunk: Chunk) -> String {
        guard let header = try? chunk.frame.decoded() else { return "a damaged frame" }
        let bytes = "bytes \(chunk.from)..<\(chunk.to) of \(header.payloadBytes)"
        return "\(header.kind) \(header.reason) \(header.range) \(header.argument) \(bytes)"
    }
}

/// Which pages an engine calls settled, copied out of it.
private struct SettledPages {
    private let isSettled: [Bool]

    init(_ engine: borrowing DestinationEngine) {
        var list: [Bool] = []
        for region in 0..<RegionIndex(engine.layout.count) {
            for page in 0..<engine.layout[region].pageCount { list.append(engine.isSettled(region, page)) }
        }
        isSettled = list
    }

    func contains(_ page: Int) -> Bool { isSettled[page] }
}
