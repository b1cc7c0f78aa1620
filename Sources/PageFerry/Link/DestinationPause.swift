import Glibc
import PageCore
import PageEngine
import PageWire

// A session without a link: faults and removals are taken as ever, so that nobody waits for this thread who need not wait for a
// page; nothing is sent; the source is looked for.
extension DestinationCore {
    /// Whether the guest lacks nothing any more, and only the source may not have heard of it.
    private var lacksNothing: Bool { engine.isComplete && !memory.hasParked && memory.mayReportAllResident }

    /// Goes on from what a daemon that died has left, as after a lost link.
    mutating func takeOver(_ takeover: DestinationSession.Takeover) {
        engine.adopt(resident: takeover.record.pages(), &memory)
        forgetReleased()
        if let standing = takeover.standing {
            let now = MonotonicClock.nowNanoseconds()
            hasLoaded = true
            isCommitted = standing.isCommitted
            if standing.isCommitted { guestStoppedNanoseconds = now }
            if standing.isResumed { resumedNanoseconds = now }
            memory.mayReportAllResident = standing.isResumed
        }
        lose(.linkLost("this daemon has taken over from one that died"))
        memory.wakeAll()
        noticeMemoryFailure()
    }

    /// Takes the lanes' traces out of the state machine, then waits until the source is found again, the session is ended, or the
    /// pause has lasted too long.
    mutating func waitForLink(_ statistics: SharedStatistics) {
        engine.linkLost(&memory)
        memory.forgetOutgoing()
        noticeMemoryFailure()
        let began = MonotonicClock.nowNanoseconds()
        schedule = SearchSchedule(nowNanoseconds: began)
        // What is parked lies in slabs of the lost link.
        while ending == nil, restored == nil || memory.hasParked {
            // It need not wait for the source to hear of it, which is looked for a while longer.
            if lacksNothing, lastPageNanoseconds == nil { releaseGuest() }
            let now = MonotonicClock.nowNanoseconds()
            let isDone = hasReported || lacksNothing
            let most = isDone ? min(pauseNanoseconds, farewellNanoseconds) : pauseNanoseconds
            guard now - max(began, lastPageNanoseconds ?? 0) < most else { return end(isDone ? nil : lost) }
            if search == nil, restored == nil, finder.way.isKnown, now >= schedule.nextNanoseconds {
                search = SourceSearch(finder, resident: engine.residentPayloads(), orders: mailbox)
                finder.way.sockets = nil
            }
            statistics.publish(snapshot())
            waitForEvents(now)
            while let region = nextToRelease() { release(region) }
        }
        if ending != nil {
            search?.abandon()
            restored?.close()
        }
        search = nil
    }

    /// Waits for orders, faults and removals, and takes them.
    private mutating func waitForEvents(_ now: UInt64) {
        var entries = [pollfd(fd: mailbox.descriptor, events: Int16(POLLIN), revents: 0)]
        for number in 0..<memory.userfaultCount {
            entries.append(pollfd(fd: memory.userfaultDescriptor(number), events: Int16(POLLIN), revents: 0))
        }
        var timeoutNanoseconds: UInt64 = 100_000_000
        if search == nil, finder.way.isKnown {
            timeoutNanoseconds = min(timeoutNanoseconds, schedule.nextNanoseconds - min(now, schedule.nextNanoseconds))
        }
        // What the kernel refuses has no event of its own.
        if memory.hasParked { timeoutNanoseconds = 1_000_000 }
        // SAFETY: local entries, as many as said, for the duration of the call.
        _ = unsafe poll(&entries, nfds_t(entries.count), Int32((timeoutNanoseconds + 999_999) / 1_000_000))
        readable(Self.mailboxToken)
        _ = readAllFaults()
        retryParked()
    }

    mutating func searchEnded(_ error: SessionError) {
        search = nil
        let now = MonotonicClock.nowNanoseconds()
        if error == .peerUnknowsSession {
            // It has heard that every page is in, from this daemon or the one before, and is gone.
            if lacksNothing, lastPageNanoseconds == nil { releaseGuest() }
            if hasReported || lacksNothing { return end(nil) }
            // Before the commit it says that the guest has gone on there. After it, and of memory alone, there is nobody else to
            // ask: whoever knows the session may still be started, or found elsewhere.
            if hasLoaded, !isCommitted { return end(error) }
        }
        schedule.failed(nowNanoseconds: now)
        obstacle = error
    }

    /// Takes the link that was found, and asks for everything that threads wait for.
    mutating func takeRestored() -> DestinationLink? {
        guard memory.failure == nil, let link = restored.take() else { return nil }
        memory.resume(laneCount: link.lanes.count, fetches: link.lanes.verbs != nil, engine.layout, method)
        if memory.isFetching { memory.fetcher!.planner.resume(resident: engine.settledPages) }
        prepare(laneCount: link.lanes.count)
        forgetReturnPath()
        if hasLoaded { memory.enqueue(.init(.loaded)) }
        if resumedNanoseconds != nil { memory.enqueue(.init(.resumed)) }
        hasReported = false
        lost = nil
        obstacle = nil
        pausedNanoseconds = nil
        engine.linkRestored(laneCount: memory.slotCount ?? link.lanes.count, &memory)
        noticeMemoryFailure()
        notify(.restored)
        return link
    }

    /// What the session has done so far.
    func snapshot() -> SessionStatistics {
        var snapshot = SessionStatistics()
        snapshot.totalPages = engine.layout.totalPages
        snapshot.missingPages = engine.missingPages
        snapshot.counts = engine.counts
        snapshot.faults = engine.faultCount
        snapshot.networkFaults = engine.missCount
        snapshot.waitingFaults = engine.waitingPages
        snapshot.latency = FaultLatency(memory.ledger.latencies)
        snapshot.guestStoppedNanoseconds = guestStoppedNanoseconds
        snapshot.resumedNanoseconds = resumedNanoseconds
        snapshot.lastPageNanoseconds = lastPageNanoseconds
        snapshot.pausedNanoseconds = pausedNanoseconds
        snapshot.pauseCount = pauseCount
        snapshot.obstacle = obstacle ?? lost
        snapshot.phase = SessionPhase(ending, isPaused: lost != nil, hasStopped: guestStoppedNanoseconds != nil)
        return snapshot
    }
}
