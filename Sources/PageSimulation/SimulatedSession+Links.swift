import PageCore
import PageEngine

// What each side believes of the link: they may differ for as long as a network is silent, and while one is made.
extension SimulatedSession {
    // MARK: Giving a link up

    /// The source has closed its connection; the destination hears of it if the network carries that.
    mutating func closeAtSource() {
        guard let link = sourceLink else { return }
        sourceLink = nil
        link.isClosedBySource = true
        link.toDestination.abandon(dropsHeldBack: random.chance(percent: 50))
        tell(link, isSource: false, noticeNanoseconds: 0)
        prune()
    }

    mutating func closeAtDestination(_ link: SimulatedConnection, noticeNanoseconds: Int?) {
        destinationLink = nil
        link.isClosedByDestination = true
        link.toSource.abandon(dropsHeldBack: random.chance(percent: 50))
        if bug == .takesFramesOfLostLinks { staleDestinationLink = link }
        tell(link, isSource: true, noticeNanoseconds: noticeNanoseconds)
        prune()
    }

    /// The destination has lost its link, and looks for the source.
    mutating func loseAtDestination() {
        guard !isDestinationDead else { return }
        if let link = destinationLink {
            destination.loseLink()
            closeAtDestination(link, noticeNanoseconds: nil)
        }
        searchAgain()
        wakeDestination()
    }

    mutating func searchAgain() {
        outcome.lostLinks += 1
        for link in connections where link !== destinationLink { link.isClosedByDestination = true }
        attempt += 1
        clock.schedule(.seeks(attempt), at: clock.now + pauseNanoseconds)
    }

    /// One side learns that the other has closed; in a silence not before it is over.
    ///
    /// - Parameter noticeNanoseconds: nil when it learns nothing.
    private mutating func tell(_ link: SimulatedConnection, isSource: Bool, noticeNanoseconds: Int?) {
        guard partition == nil, let noticeNanoseconds else { return }
        let arrival = clock.now + scenario.latencyNanoseconds + scenario.jitterNanoseconds + noticeNanoseconds
        clock.schedule(.closureHeard(link.number, isSource: isSource), at: arrival)
    }

    mutating func hearClosure(_ number: Int, isSource: Bool) {
        guard partition == nil, !source.isTold else { return }
        if isSource {
            guard sourceLink?.number == number else { return }
            trace("the source learns that connection \(number) is closed")
            closeAtSource()
        } else {
            guard destinationLink?.number == number, bug != .hasBoundlessPatience else { return }
            trace("the destination learns that connection \(number) is closed")
            loseAtDestination()
        }
    }

    private mutating func prune() {
        connections.removeAll { $0.isClosedBySource && $0.isClosedByDestination }
    }

    // MARK: Coming back

    /// The destination connects, and says what is here.
    mutating func seek(_ number: Int) {
        guard number == attempt, !source.isTold else { return }
        // Whoever takes over looks for the source first.
        guard !isDestinationDead else { return clock.schedule(.seeks(number), at: clock.now + 1 + pauseNanoseconds) }
        clock.schedule(.attemptEnds(number), at: clock.now + scenario.attemptNanoseconds)
        guard partition == nil else { return }
        let link = SimulatedConnection(
            scenario, number: number, resident: destination.engine.residentPayloads(), seeds: (random.next(), random.next()))
        connections.append(link)
        let trip = 2 * (scenario.latencyNanoseconds + scenario.jitterNanoseconds) + 1
        // With one lane the destination has the last word, with more of them the source.
        if scenario.laneCount == 1 {
            clock.schedule(.destinationLinks(number), at: clock.now + trip)
            return clock.schedule(.sourceLinks(number), at: clock.now + trip + 1 + random.next(below: trip))
        }
        var heard = clock.now + trip + random.next(below: trip)
        if lateAttemptsLeft > 0, random.chance(percent: 50) {
            lateAttemptsLeft -= 1
            heard += 1 + random.next(below: 3 * scenario.attemptNanoseconds)
        }
        clock.schedule(.sourceLinks(number), at: heard)
    }

    /// The source has all it waits for, and takes the connection in place of the one it has.
    mutating func sourceLinks(_ number: Int) {
        guard !source.isTold, let link = connections.first(where: { $0.number == number }), !link.isClosedBySource else { return }
        if let partition, scenario.partitions[partition].silencesToSource {
            // Held back, until it is heard or the destination gives up.
            return clock.schedule(.sourceLinks(number), at: clock.now + scenario.attemptNanoseconds)
        }
        guard number > takenAttempt || bug == .takesStaleLinks else { return }
        if let present = sourceLink {
            if bug == .keepsTheFirstLink { return }
            if link.isClosedByDestination, !present.isClosedByDestination { source.fail(.staleLinkTaken(number: number)) }
            outcome.secondLinks += 1
            if bug == .mixesLinks { staleSourceLink = present }
            closeAtSource()
        }
        trace("the source takes connection \(number)")
        takenAttempt = max(takenAttempt, number)
        sourceLink = link
        source.resume(resident: link.resident, receivedPushBytes: destination.receivedPushBytes)
        wakeSource()
        if link.isClosedByDestination { return tell(link, isSource: true, noticeNanoseconds: 0) }
        guard scenario.laneCount > 1 else { return }
        if lostAnswersLeft > 0, random.chance(percent: 50) {
            lostAnswersLeft -= 1
            return trace("its answer is lost")
        }
        clock.schedule(.destinationLinks(number), at: clock.now + scenario.latencyNanoseconds + 1)
    }

    mutating func destinationLinks(_ number: Int) {
        guard number == attempt, destinationLink == nil, !isDestinationDead, !source.isTold else { return }
        guard let link = connections.first(where: { $0.number == number }), !link.isClosedBySource else { return }
        if let partition, scenario.partitions[partition].silencesToDestination { return }
        // What is parked lies in slabs of the lanes before.
        guard !destination.memory.hasParked else { return clock.schedule(.destinationLinks(number), at: clock.now + 1_000) }
        trace("the destination has connection \(number)")
        destinationLink = link
        destination.restoreLink()
        wakeDestination()
        wakeSource()
    }

    /// Nothing was heard of an attempt: it is given up, whatever the source thinks of it.
    mutating func attemptEnds(_ number: Int) {
        guard number == attempt, destinationLink == nil, !isDestinationDead, !source.isTold else { return }
        if let link = connections.first(where: { $0.number == number }) {
            // Parked work keeps a link waiting that is there.
            if destination.memory.hasParked, partition == nil {
                return clock.schedule(.attemptEnds(number), at: clock.now + scenario.attemptNanoseconds)
            }
            trace("the destination gives attempt \(number) up")
            link.isClosedByDestination = true
            link.toSource.abandon(dropsHeldBack: random.chance(percent: 50))
        }
        attempt += 1
        outcome.lostAttempts += 1
        clock.schedule(.seeks(attempt), at: clock.now + 1 + random.next(below: scenario.attemptNanoseconds))
    }
}
