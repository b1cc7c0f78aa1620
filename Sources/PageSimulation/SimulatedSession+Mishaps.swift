import PageCore
import PageEngine

// Links that are lost and found again, and daemons that die.
extension SimulatedSession {
    mutating func mishap(_ mishap: Scenario.Mishap) {
        guard !source.isTold else { return }
        guard let steps = mishap.destinationSteps, !isDestinationDead else { return loseLink(mishap) }
        // Its link is lost with it: that is noticed at once, by the kernel's word.
        deadNanoseconds = mishap.pauseNanoseconds
        isSourceLostToo = mishap.isSourceLost
        pendingHandshakeNanoseconds = mishap.handshakeNanoseconds
        destination.memory.die(afterSteps: steps, atCopy: mishap.isAtCopy)
        if destination.memory.isDead { destinationDies() }
    }

    private mutating func loseLink(_ mishap: Scenario.Mishap) {
        trace(mishap.isSourceLost ? "the source's daemon dies" : "the link is lost")
        if !isDown { destination.loseLink() }
        if mishap.isSourceLost { source.restart(scenario.source) }
        pendingHandshakeNanoseconds = mishap.handshakeNanoseconds
        drop(forNanoseconds: mishap.pauseNanoseconds)
        wakeDestination()
    }

    private mutating func drop(forNanoseconds nanoseconds: Int) {
        if bug != .takesFramesOfLostLinks { toDestination.reset() }
        toSource.reset()
        isDown = true
        outcome.lostLinks += 1
        linkNumber += 1
        clock.schedule(.relinks(linkNumber), at: clock.now + nanoseconds)
    }

    mutating func destinationDies() {
        guard !isDestinationDead else { return }
        trace("the destination's daemon dies")
        isDestinationDead = true
        if isSourceLostToo, !source.isTold { source.restart(scenario.source) }
        outcome.deadDestinations += 1
        drop(forNanoseconds: deadNanoseconds)
        clock.schedule(.takesOver, at: clock.now + 1 + deadNanoseconds / 2)
    }

    mutating func takeOver() {
        trace("another daemon takes over at the destination")
        isDestinationDead = false
        destination.takeOver()
        if bug != .forgetsToWake {
            for number in processors.indices where processors[number].waitingFor != nil && !processors[number].isWaking {
                processors[number].isWaking = true
                clock.schedule(.processor(number), at: clock.now + 1)
            }
        }
        wakeDestination()
    }

    mutating func relink(_ number: Int) {
        guard number == linkNumber, !source.isTold else { return }
        // Whoever takes over looks for the source first.
        guard !isDestinationDead else { return clock.schedule(.relinks(number), at: clock.now + 1 + deadNanoseconds) }
        resident = destination.engine.residentPayloads()
        clock.schedule(.relinked(number), at: clock.now + pendingHandshakeNanoseconds)
    }

    mutating func linkIsBack(_ number: Int) {
        guard number == linkNumber else { return }
        // What is parked lies in slabs of the lanes before.
        guard !destination.memory.hasParked else { return clock.schedule(.relinked(number), at: clock.now + 1_000) }
        trace("the link is back")
        isDown = false
        restoredNanoseconds = clock.now
        source.resume(resident: resident, receivedPushBytes: destination.receivedPushBytes)
        destination.restoreLink()
        wakeSource()
        wakeDestination()
    }
}
