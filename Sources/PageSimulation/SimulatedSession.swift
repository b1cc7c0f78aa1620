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
    /// Connections that one side at least takes for sound, and those being made.
    var connections: [SimulatedConnection] = []
    var sourceLink: SimulatedConnection?
    var destinationLink: SimulatedConnection?
    var processors: [VirtualProcessor]
    private var removalsLeft: Int
    /// Ranges being given up, in the order of their events.
    private var leaving: BoundedQueue<PageRange>
    private var isSourceTurnDue = false
    private var isDestinationTurnDue = false
    var isLost = false
    var isDestinationDead = false
    /// Of the mishap in which the destination's daemon dies.
    var deathMishap: Scenario.Mishap?
    /// Of the destination's attempts to come back, the last; and the last that the source has taken.
    var attempt = 0
    var takenAttempt = 0
    var lostAnswersLeft: Int
    var lateAttemptsLeft: Int
    /// Of the silence there is now.
    var partition: Int?
    /// What the next silence or loss asks for: until the destination looks for the source.
    var pauseNanoseconds = 1
    private var wasLinked = true
    /// Since when both sides have had the same sound link without a break.
    var restoredNanoseconds = 0
    /// With seeded bugs: connections that ought to be forgotten.
    var staleDestinationLink: SimulatedConnection?
    var staleSourceLink: SimulatedConnection?
    var outcome: SimulationOutcome

    /// More events than any drawn session needs.
    static var mostEvents: Int { 2_000_000 }

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
        let first = SimulatedConnection(scenario, number: 0, resident: [], seeds: (random.next(), random.next()))
        connections = [first]
        sourceLink = first
        destinationLink = first
        lostAnswersLeft = scenario.lostAnswers
        lateAttemptsLeft = scenario.lateAttempts
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
            noteLinks()
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
        for (number, partition) in scenario.partitions.enumerated() { clock.schedule(.silence(number), at: partition.nanoseconds) }
        wakeDestination()
    }

    private mutating func handle(_ event: Event) {
        switch event {
        case .sourceTurn: sourceTurn()
        case .destinationTurn: destinationTurn()
        case .link(let number, let isToDestination): look(number, isToDestination)
        case .arrival(_, let isToDestination): isToDestination ? wakeDestination() : wakeSource()
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
        case .seeks(let number): seek(number)
        case .sourceLinks(let number): sourceLinks(number)
        case .destinationLinks(let number): destinationLinks(number)
        case .attemptEnds(let number): attemptEnds(number)
        case .silence(let number): fallSilent(number)
        case .heals(let number): heal(number)
        case .losesPatience(let number, let isSource): losePatience(number, isSource: isSource)
        case .closureHeard(let number, let isSource): hearClosure(number, isSource: isSource)
        }
    }

    private mutating func look(_ number: Int, _ isToDestination: Bool) {
        guard let link = connections.first(where: { $0.number == number }) else { return }
        if isToDestination {
            link.toDestination.looked()
            if !link.isClosedBySource, link.toDestination.transmit(&clock) { wakeSource() }
        } else {
            link.toSource.looked()
            if !link.isClosedByDestination, link.toSource.transmit(&clock) { wakeDestination() }
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
        guard let link = sourceLink else { return }
        if let staleSourceLink { takeAtSource(staleSourceLink) }
        takeAtSource(link)
        if link.toSource.transmit(&clock) { wakeDestination() }
        let isBusy = source.sendWhatIsDue(link.toDestination, receivedPushBytes: destination.receivedPushBytes)
        // A queue that has become shorter is a completion, and a completion ends the wait of the next poll.
        let isShorter = link.toDestination.transmit(&clock)
        if isBusy || isShorter { wakeSource() }
    }

    private mutating func takeAtSource(_ link: SimulatedConnection) {
        for lane in 0..<scenario.laneCount {
            while let chunk = link.toSource.take(lane: lane, now: clock.now) {
                trace("source takes \(Self.text(chunk))")
                if chunk.isLast { source.arrived(chunk.frame, isPresent: link === sourceLink) }
            }
        }
    }

    private mutating func destinationTurn() {
        isDestinationTurnDue = false
        if isDestinationDead { return }
        defer { if destination.memory.isDead { destinationDies() } }
        guard let link = destinationLink else {
            let isBusy = destination.turnWithoutLink()
            scheduleZaps()
            if isBusy { wakeDestination() }
            return
        }
        destination.readEvents()
        var bytesLeft = scenario.bytesConsumedATurn
        if let staleDestinationLink { takeStale(staleDestinationLink) }
        takeAtDestination(link, &bytesLeft)
        if link.toDestination.transmit(&clock) { wakeSource() }
        let isBusy = destination.finishTurn(link.toSource)
        let isShorter = link.toSource.transmit(&clock)
        scheduleZaps()
        if isBusy || isShorter || bytesLeft <= 0 { wakeDestination() }
    }

    private mutating func takeAtDestination(_ link: SimulatedConnection, _ bytesLeft: inout Int) {
        let first = random.next(below: scenario.laneCount)
        for step in 0..<scenario.laneCount {
            let lane = (first + step) % scenario.laneCount
            while bytesLeft > 0, let chunk = link.toDestination.take(lane: lane, now: clock.now) {
                bytesLeft -= chunk.byteCount
                trace("destination takes \(Self.text(chunk)) on lane \(lane)")
                destination.take(chunk, lane: lane, words: words)
            }
        }
    }

    /// A deliberate fault: whole frames of a link that is lost.
    private mutating func takeStale(_ link: SimulatedConnection) {
        for lane in 0..<scenario.laneCount {
            while let chunk = link.toDestination.take(lane: lane, now: clock.now) {
                guard chunk.isFirst, chunk.isLast, !destination.isReceiving(lane) else { continue }
                destination.take(chunk, lane: lane, words: words)
            }
        }
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

    /// Whether both sides have the same link, and it carries.
    private var isLinked: Bool {
        guard partition == nil, let sourceLink, let destinationLink else { return false }
        return sourceLink === destinationLink
    }

    private mutating func noteLinks() {
        let isLinked = isLinked
        if isLinked, !wasLinked { restoredNanoseconds = max(restoredNanoseconds, clock.now) }
        wasLinked = isLinked
    }

    /// How long a thread has waited, the time before the memory was final left out, and that until the link was found again.
    private func waited(_ number: Int) -> Int {
        isLinked ? max(0, clock.now - max(processors[number].waitingSince, scenario.guestStopNanoseconds, restoredNanoseconds)) : 0
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

    private static func text(_ chunk: Chunk) -> String {
        guard let header = try? chunk.frame.decoded() else { return "a damaged frame" }
        let bytes = "bytes \(chunk.from)..<\(chunk.to) of \(header.payloadBytes)"
        return "\(header.kind) \(header.reason) \(header.range) \(header.argument) \(bytes)"
    }
}
