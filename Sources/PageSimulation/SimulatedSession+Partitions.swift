import PageCore

// Networks that carry nothing in one direction, or in both, and say nothing of it.
extension SimulatedSession {
    mutating func fallSilent(_ number: Int) {
        guard partition == nil, !source.isTold else { return }
        let silence = scenario.partitions[number]
        trace("silence, to the destination: \(silence.silencesToDestination), to the source: \(silence.silencesToSource)")
        partition = number
        outcome.silences += 1
        for link in connections {
            link.toDestination.fallSilent(
                at: clock.now, carriesNothing: silence.silencesToDestination, hearsNothing: silence.silencesToSource)
            link.toSource.fallSilent(at: clock.now, carriesNothing: silence.silencesToSource, hearsNothing: silence.silencesToDestination)
        }
        clock.schedule(.heals(number), at: clock.now + silence.durationNanoseconds)
        clock.schedule(.losesPatience(number, isSource: true), at: clock.now + silence.sourcePatienceNanoseconds)
        clock.schedule(.losesPatience(number, isSource: false), at: clock.now + silence.destinationPatienceNanoseconds)
    }

    /// Whatever a side sends is not acknowledged, and what it does not send is not probed with success.
    mutating func losePatience(_ number: Int, isSource: Bool) {
        guard partition == number, !source.isTold else { return }
        if isSource {
            guard sourceLink != nil else { return }
            trace("the source gives the link up")
            closeAtSource()
        } else {
            guard destinationLink != nil, bug != .hasBoundlessPatience else { return }
            trace("the destination gives the link up")
            pauseNanoseconds = scenario.partitions[number].pauseNanoseconds
            loseAtDestination()
        }
    }

    /// What was held back comes; and whoever has closed a connection meanwhile is heard.
    mutating func heal(_ number: Int) {
        guard partition == number else { return }
        trace("the network carries again")
        partition = nil
        let arrival = clock.now + scenario.partitions[number].retransmissionNanoseconds
        for link in connections {
            link.toDestination.heal(at: arrival, losing: bug == .losesWhatWasHeldBack, &clock)
            link.toSource.heal(at: arrival, losing: bug == .losesWhatWasHeldBack, &clock)
            if link.isClosedBySource { clock.schedule(.closureHeard(link.number, isSource: false), at: arrival) }
            if link.isClosedByDestination { clock.schedule(.closureHeard(link.number, isSource: true), at: arrival) }
        }
        restoredNanoseconds = max(restoredNanoseconds, arrival)
        wakeSource()
        wakeDestination()
    }
}
