import PageCore
import PageEngine
import PageTransport
import PageWire

/// The loop of one destination session on its own thread: the only place where engine, fault layer and transport meet.
struct DestinationShard<Transport: PageTransport & ~Copyable>: ~Copyable {
    /// While threads wait, and for this long after, pushed pages are received in small pieces.
    private static var thinNanoseconds: UInt64 { 1_000_000 }
    private static var thinBytes: Int { 64 << 10 }
    /// The same for pieces fetched.
    private static var fetchThinBytes: Int { 32 << 10 }
    /// A push that is decided here pauses for this long after a fault.
    private static var holdNanoseconds: UInt64 { 150_000 }
    /// Turns of `answerFaults` between two looks at lanes that await no answer, and, while one is awaited, at new faults.
    private static var turnsBetweenFullLooks: Int { 8 }
    /// How long `answerFaults` keeps to itself what only the ring knows: orders, and what the connection manager has to say.
    private static var mostAnsweringNanoseconds: UInt64 { 1_000_000 }
    private static var sleepNanoseconds: UInt64 { 100_000_000 }
    /// How long a source may take to hang up after it was told that every page is in.
    private static var farewellNanoseconds: UInt64 { 5_000_000_000 }

    private var core: DestinationCore
    private var transport: Transport
    private let statistics: SharedStatistics
    private var spin: SpinAllowance
    private let statisticsIntervalNanoseconds: UInt64
    private var lastNewsNanoseconds: UInt64 = 0
    private var nextStatisticsNanoseconds: UInt64 = 0
    private var farewellDeadlineNanoseconds: UInt64 = .max

    init(
        core: consuming DestinationCore, transport: consuming Transport, statistics: SharedStatistics,
        configuration: DestinationSession.Configuration
    ) {
        self.core = core
        self.transport = transport
        self.statistics = statistics
        spin = SpinAllowance(configuration.polling)
        statisticsIntervalNanoseconds = configuration.statisticsIntervalNanoseconds
    }

    /// Runs until the session is over, or has no link any more.
    mutating func run() {
        transport.watch(descriptor: core.mailbox.descriptor, token: DestinationCore.mailboxToken)
        for number in 0..<core.memory.userfaultCount where !core.memory.isReleased(RegionIndex(number)) {
            transport.watchEagerly(
                descriptor: core.memory.userfaultDescriptor(number), token: DestinationCore.firstFaultToken + UInt64(number))
        }
        core.readable(DestinationCore.mailboxToken)
        while core.isLinked {
            sendWhatIsDue()
            transport.poll(&core, wait: core.isOnlyFetching && spin.nanoseconds() > 0 ? answerFaults() : waitPolicy())
            spin.spun(isInVain: transport.didSpinInVain)
            if core.memory.hasParked { core.retryParked() }
            releaseRegions()
            completeWhenDue()
            publishStatistics(force: false)
        }
        finish()
    }

    /// What outlives the link.
    consuming func release() -> DestinationCore { core }

    /// Work that the kernel refused has no event of its own, so its wake-up is a short time-out.
    private mutating func waitPolicy() -> WaitPolicy {
        if core.memory.hasParked { return WaitPolicy(timeoutNanoseconds: 50_000) }
        return WaitPolicy(
            spinNanoseconds: spin.nanoseconds(isAwaited: core.engine.waitingPages > 0, isPushing: core.engine.isPushed),
            timeoutNanoseconds: Self.sleepNanoseconds)
    }

    /// Answers faults by one-sided reads for as long as nothing else is due. A fault costs one read of the userfaultfd, one
    /// doorbell, one completion and one install here; the loop's whole turn, with its ring and its lanes, is kept out of its way.
    ///
    /// - Returns: how the transport is to wait afterwards: not at all while the spin lasts.
    private mutating func answerFaults() -> WaitPolicy {
        let start = MonotonicClock.nowNanoseconds()
        var now = start
        if lastNewsNanoseconds == 0 { lastNewsNanoseconds = start }
        var turn = 0
        while now - start < Self.mostAnsweringNanoseconds {
            turn &+= 1
            let isFull = turn % Self.turnsBetweenFullLooks == 0
            let didComplete = transport.glance(&core, isFull: isFull)
            var didFault = false
            // Looking at a userfaultfd is a system call, which would be in an answer's way.
            if core.engine.waitingPages == 0 || isFull {
                didFault = core.readAllFaults()
                if didFault { core.fetchDemands(&transport) }
            }
            if didComplete || didFault {
                now = MonotonicClock.nowNanoseconds()
                lastNewsNanoseconds = now
                guard core.isOnlyFetching else { break }
            } else if isFull {
                now = MonotonicClock.nowNanoseconds()
                let patience = spin.patienceNanoseconds(isAwaited: core.engine.waitingPages > 0)
                if now - lastNewsNanoseconds >= patience { return WaitPolicy(timeoutNanoseconds: Self.sleepNanoseconds) }
            }
        }
        return .immediate
    }

    private mutating func sendWhatIsDue() {
        core.fetchDemands(&transport)
        let isInUse =
            core.engine.waitingPages > 0
            || MonotonicClock.nowNanoseconds() - core.lastFaultNanoseconds < Self.thinNanoseconds
        transport.limitBursts(toBytes: isInUse ? Self.thinBytes : nil)
        pace()
        core.engine.retry(&core.memory)
        if core.memory.isFetching { _ = core.fetchWhatIsDue(&transport, mostPushBytes: mostPushBytes()) }
        while let header = core.memory.nextOutgoing, transport.submit(header, lane: .urgent) {
            core.memory.outgoingSent()
            if header.kind == .allResident {
                core.hasReported = true
                farewellDeadlineNanoseconds = MonotonicClock.nowNanoseconds() + Self.farewellNanoseconds
            }
        }
        while let piece = core.machineState.first {
            let header = FrameHeader(.machineState, payloadBytes: piece.count)
            guard transport.submit(header, copying: piece, lane: .urgent) else { return }
            core.machineStateSent()
        }
        if transport.freeSlots(.urgent) > 0, core.takeMachineStateEnd() {
            _ = transport.submit(FrameHeader(.machineStateEnd), lane: .urgent)
        }
    }

    /// Keeps what is on the way to what the link carries without a queue.
    private mutating func pace() {
        guard core.pacing != nil, core.engine.missingPages > 0 else { return }
        let now = MonotonicClock.nowNanoseconds()
        core.pacing?.update(receivedBytes: core.engine.pushedBytes, nowNanoseconds: now)
        if let windowBytes = core.pacing?.windowBytes, windowBytes != core.engine.creditWindowBytes {
            core.engine.creditWindowBytes = windowBytes
        }
        core.engine.leastGrantBytes = core.pacing?.grantBytes
        if transport.freeSlots(.urgent) > 0, let ping = core.pacing?.ping(nowNanoseconds: now) {
            _ = transport.submit(ping, lane: .urgent)
        }
    }

    /// How much of the push may be begun now, where this side decides it: nothing while a demand is out or the machine state
    /// loads, little for a while after.
    private func mostPushBytes() -> Int {
        guard core.engine.waitingPages == 0, !core.isLoading else { return 0 }
        let quiet = MonotonicClock.nowNanoseconds() - core.lastFaultNanoseconds
        if quiet < Self.holdNanoseconds { return 0 }
        return quiet < 2 * Self.thinNanoseconds ? Self.fetchThinBytes : .max
    }

    /// Lets go of regions that were taken out.
    private mutating func releaseRegions() {
        while let region = core.nextToRelease() {
            if core.lastPageNanoseconds == nil { transport.unwatch(token: DestinationCore.firstFaultToken + UInt64(region)) }
            core.release(region)
        }
    }

    /// When the last page is in and visible, the guest is set free before the source hears of it.
    private mutating func completeWhenDue() {
        if core.engine.isComplete, !core.memory.hasParked, core.lastPageNanoseconds == nil {
            for number in 0..<core.memory.userfaultCount where !core.memory.isReleased(RegionIndex(number)) {
                transport.unwatch(token: DestinationCore.firstFaultToken + UInt64(number))
            }
            core.releaseGuest()
        }
        if farewellDeadlineNanoseconds != .max, MonotonicClock.nowNanoseconds() > farewellDeadlineNanoseconds { core.end(nil) }
    }

    private mutating func finish() {
        guard let ending = core.ending else {
            transport.abandon()
            return publishStatistics(force: true)
        }
        if let reason = ending {
            if case .peerFailed = reason {
            } else {
                let (header, payload) = reason.failure.encoded()
                _ = transport.submit(header, copying: payload, lane: .urgent)
            }
        }
        transport.close()
        publishStatistics(force: true)
    }

    private mutating func publishStatistics(force: Bool) {
        let now = MonotonicClock.nowNanoseconds()
        guard force || now >= nextStatisticsNanoseconds else { return }
        nextStatisticsNanoseconds = now + statisticsIntervalNanoseconds
        statistics.publish(core.snapshot())
    }
}
