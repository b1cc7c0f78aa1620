import PageCore
import PageEngine

// What must hold after every event, and at the end.
extension SimulatedSession {
    private func failure(_ violation: InvariantViolation) -> SimulationFailure {
        SimulationFailure(seed: seed, bug: bug, nanoseconds: clock.now, violation: violation)
    }

    func check() throws(SimulationFailure) {
        if let violation = destination.memory.guest.violation { throw failure(violation) }
        if let violation = source.violation { throw failure(violation) }
        if outcome.events > Self.mostEvents || clock.now > scenario.sessionBoundNanoseconds, !source.isTold {
            throw failure(.lastsTooLong(missingPages: destination.engine.missingPages))
        }
    }

    mutating func finish() throws(SimulationFailure) {
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
