import PageCore
import PageWire

// A link that is lost, and found again. Between the two, faults and removals are taken as ever; nothing is asked for.
extension DestinationEngine {
    /// The lane broke in the middle of something: what it was receiving is not here, and will be asked for again.
    public mutating func laneLost<Sink: DestinationSink & ~Copyable>(lane: Int, _ sink: inout Sink) {
        guard let reception = receptions[lane] else { return }
        receptions[lane] = nil
        guard case .direct(let range) = reception.placement else { return }
        // Half a page must never be found in mapping B, neither by a resolve nor at the end of the session.
        sink.erase(range)
        for page in range.first..<range.end where isSettled(range.region, page) {
            sink.record(PageRange(region: range.region, first: page, count: 1))
        }
        resolveDemanded(range, &sink)
    }

    /// All lanes are gone, and nothing of theirs writes to guest memory any more.
    public mutating func linkLost<Sink: DestinationSink & ~Copyable>(_ sink: inout Sink) {
        for lane in endedLanes.indices { laneLost(lane: lane, &sink) }
        creditOutstandingBytes = 0
        refusedPrefetch = nil
        hasReportedAllResident = false
        replays.restart()
    }

    /// Takes over from a daemon that died, with what it has on record (`DestinationSink.record`). Call before anything else;
    /// then wake whoever waits, so that their faults are read anew, and go on as after a lost link.
    ///
    /// Whatever the dead daemon had received in place of pages that are not on record is erased: half a page must never be found in
    /// mapping B, not even in the moment between a removal's event and the kernel's own erasing. None of them is visible, since what
    /// is received in place is on record before it is shown.
    public mutating func adopt<Sink: DestinationSink & ~Copyable>(resident: borrowing PageBitmap, _ sink: inout Sink) {
        precondition(faultCount == 0 && settled.setCount == 0, "a session is taken over at its start")
        counts.found = settled.replace(with: resident).set
        for region in 0..<RegionIndex(layout.count) where configuration.receivesInPlace[Int(region)] {
            let pages = layout.sessionPages(layout.wholeRange(region))
            var from = pages.lowerBound
            while let run = settled.firstClearRun(in: from..<pages.upperBound, most: pages.count) {
                sink.erase(layout.range(region, sessionPages: run))
                from = run.upperBound
            }
        }
    }

    /// Which pages are settled, as the payloads of `residentPages` frames. What settles later is told by the usual frames.
    public func residentPayloads() -> [[UInt8]] { ResidentPages.encode(settled) }

    /// The source has been found again, has heard of `residentPayloads`, and remembers no request: asks once more for every page
    /// that threads wait for.
    ///
    /// - Parameter laneCount: lanes, or slots that play their part, from now on.
    public mutating func linkRestored<Sink: DestinationSink & ~Copyable>(laneCount: Int, _ sink: inout Sink) {
        receptions = Receptions(laneCount: laneCount)
        endedLanes = Array(repeating: false, count: laneCount)
        refusedRequests.removeAll()
        var from = 0
        while let number = demanded.firstSet(in: from..<layout.totalPages) {
            from = number + 1
            // A settled page waits for its install, not for the source.
            if !settled.contains(number) { refusedRequests.insert(number) }
        }
        repeatRefusedRequests(&sink)
    }
}
