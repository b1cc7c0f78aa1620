import PageCore
import PageEngine

// Daemons that die, and links that break with a word of it.
extension SimulatedSession {
    mutating func mishap(_ mishap: Scenario.Mishap) {
        guard !source.isTold else { return }
        guard let steps = mishap.destinationSteps, !isDestinationDead else { return loseLink(mishap) }
        deathMishap = mishap
        destination.memory.die(afterSteps: steps, atCopy: mishap.isAtCopy)
        if destination.memory.isDead { destinationDies() }
    }

    private mutating func loseLink(_ mishap: Scenario.Mishap) {
        pauseNanoseconds = mishap.pauseNanoseconds
        if mishap.isSourceLost {
            trace("the source's daemon dies")
            sourceDies()
        }
        // Nobody hears of it in a silence: patience will end.
        guard partition == nil else { return }
        if !mishap.isSourceLost { trace("the link is lost") }
        if mishap.isSourceLost || mishap.noticeNanoseconds == 0 { closeAtSource() }
        let link = destinationLink
        loseAtDestination()
        guard let link, sourceLink === link, let notice = mishap.noticeNanoseconds else { return }
        clock.schedule(.closureHeard(link.number, isSource: true), at: clock.now + notice)
    }

    /// What it knew is gone, and so are the connections it was in the middle of making.
    private mutating func sourceDies() {
        source.restart(scenario.source)
        closeAtSource()
        for link in connections where link.number > takenAttempt { link.isClosedBySource = true }
    }

    mutating func destinationDies() {
        guard !isDestinationDead, let mishap = deathMishap else { return }
        trace("the destination's daemon dies")
        isDestinationDead = true
        outcome.deadDestinations += 1
        pauseNanoseconds = mishap.pauseNanoseconds
        if mishap.isSourceLost, !source.isTold { sourceDies() }
        if let link = destinationLink { closeAtDestination(link, noticeNanoseconds: mishap.noticeNanoseconds) }
        searchAgain()
        clock.schedule(.takesOver, at: clock.now + 1 + mishap.pauseNanoseconds / 2)
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
}
