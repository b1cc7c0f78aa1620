import PageCore
import PageEngine
import PageTransport
import PageWire
import Synchronization

/// The loop of one source session on its own thread: the only place where engine, memory and transport meet.
struct SourceShard<Transport: PageTransport & ~Copyable, Memory: SessionMemory & ~Copyable>: ~Copyable {
    /// Bytes of windows that may wait on the urgent lane in front of the next demand.
    private static var mostWindowBytesPending: Int { 96 << 10 }
    /// Bytes of push that may wait in a bulk lane for its connection.
    private static var mostBulkBytesPending: Int { 64 << 10 }
    /// For this long after a request the push goes on in small pieces: the thread that asked will ask again, and its answer is
    /// to wait for no more than one of them.
    private static var thinNanoseconds: UInt64 { 2_000_000 }
    private static var thinBytes: Int { 64 << 10 }
    /// How long the push waits for a machine state to be loaded.
    private static var loadingNanoseconds: UInt64 { 300_000_000 }
    private static var statisticsIntervalNanoseconds: UInt64 { 50_000_000 }

    private var core: SourceCore
    private var transport: Transport
    private var memory: Memory
    /// Set when the destination reads the memory by itself.
    private let exposure: SourceExposure?
    private var announcement: SourceAnnouncement?
    private let statistics: SharedStatistics
    private var spin: SpinAllowance
    /// Lanes on which the end of the pages has been announced.
    private var endedLanes: [Bool]
    private var nextStatisticsNanoseconds: UInt64 = 0

    init(
        state: consuming SourceState<Memory>, transport: consuming Transport, exposure: SourceExposure?,
        statistics: SharedStatistics, polling: Polling
    ) {
        core = state.core
        endedLanes = Array(repeating: false, count: transport.laneCount)
        self.transport = transport
        memory = state.memory
        self.exposure = exposure
        announcement = nil
        self.statistics = statistics
        spin = SpinAllowance(polling)
    }

    /// Runs until the session is over, or has no link any more.
    mutating func run() {
        transport.watch(descriptor: core.mailbox.descriptor, token: SourceCore.mailboxToken)
        core.readable(SourceCore.mailboxToken)
        while core.isLinked {
            let wait = sendWhatIsDue()
            transport.poll(&core, wait: wait)
            spin.spun(isInVain: transport.didSpinInVain)
            while let token = core.returned.popFirst() { memory.takeBack(token) }
            publishStatistics(force: false)
        }
        finish()
        memory.takeBackAll()
    }

    /// What outlives the link.
    consuming func release() -> SourceState<Memory> { SourceState(core: core, memory: memory) }

    /// Fills the lanes: demands first, then control, then windows, then the push.
    ///
    /// - Returns: how long to wait for the next event: not at all when more could go at once.
    private mutating func sendWhatIsDue() -> WaitPolicy {
        if let exposure {
            sendControl()
            return expose(exposure)
        }
        // Where looking at a page may mean waiting for it, one is looked at in a turn: what was found must not wait for the next.
        let most = memory.isFilledOnTouch ? 1 : Int.max
        let demands = sendUrgent(includingWindows: false, most: most)
        // What threads wait for leaves now, and by itself: a window behind it in the same call would be copied first.
        if demands > 0 { transport.flush() }
        sendControl()
        if demands == most { return .immediate }
        if sendUrgent(includingWindows: true, most: most) == most { return .immediate }
        let wait = push()
        announceEnd()
        return wait
    }

    /// Tells the destination where the memory is, and writes what it asks to be written.
    private mutating func expose(_ exposure: SourceExposure) -> WaitPolicy {
        let idle = WaitPolicy(spinNanoseconds: spin.nanoseconds(), timeoutNanoseconds: 100_000_000)
        guard core.guestStoppedNanoseconds != nil else { return idle }
        if announcement == nil {
            do throws(SessionError) { try exposure.refresh() } catch {
                core.end(error)
                return .immediate
            }
            announcement = SourceAnnouncement(layout: core.engine.layout, keys: exposure.keys)
        }
        writeGranted(exposure)
        return announcement!.proceed(&transport, &memory) ? .immediate : idle
    }

    private mutating func writeGranted(_ exposure: SourceExposure) {
        let bulkLanes = max(1, transport.laneCount - 2)
        while let grant = core.grants.first {
            let number = min(transport.laneCount - 1, 2 + Int(grant.immediate) % bulkLanes)
            let lane = LaneIndex(UInt8(number))
            guard transport.freeOneSided(lane) > 0 else { return }
            guard let local = exposure.local(grant.range) else { return core.end(.violation(.outsideRegions(grant.range))) }
            let byteCount = core.engine.layout.byteCount(grant.range)
            guard
                transport.write(
                    byteCount, from: local, to: RemoteMemory(address: grant.target.address, key: grant.target.key),
                    immediate: grant.immediate, token: 0, lane: lane)
            else { return }
            core.grants.popFirst()
        }
    }

    /// - Returns: how many commands it submitted.
    private mutating func sendUrgent(includingWindows: Bool, most: Int) -> Int {
        var count = 0
        while count < most, transport.freeSlots(.urgent) > 0, memory.hasRoom(forPush: false) {
            let windows = includingWindows && transport.pendingBytes(.urgent) < Self.mostWindowBytesPending
            guard let command = core.engine.nextUrgent(&memory, includingWindows: windows) else { break }
            submit(command, .urgent)
            count += 1
        }
        return count
    }

    private mutating func sendControl() {
        while let header = core.outbox.first, transport.submit(header, lane: .urgent) { core.outboxSent() }
        while let piece = core.machineState.first {
            let header = FrameHeader(.machineState, payloadBytes: piece.count)
            guard transport.submit(header, copying: piece, lane: .urgent) else { return }
            core.machineStateSent()
        }
        if transport.freeSlots(.urgent) > 0, core.takeMachineStateEnd() {
            _ = transport.submit(FrameHeader(.machineStateEnd), lane: .urgent)
        }
    }

    /// Whether the destination's VMM is, as far as is known, still loading its machine state. Its main thread then faults page
    /// after page while nothing else runs: until the guest does, pushed content would only be in its way. Zero ranges
    /// are not: they spare faults.
    private var isLoading: Bool {
        guard core.relay != nil, core.resumedNanoseconds == nil, let stopped = core.guestStoppedNanoseconds else { return false }
        return MonotonicClock.nowNanoseconds() - stopped < Self.loadingNanoseconds
    }

    /// One extent a bulk lane and turn, so that a demand which comes meanwhile waits for little.
    ///
    /// - Returns: how long to wait for the next event.
    private mutating func push() -> WaitPolicy {
        guard core.engine.unsentPages > 0 else { return idle(isPushing: false) }
        let quiet = MonotonicClock.nowNanoseconds() - core.lastRequestNanoseconds
        var mostBytes = quiet < Self.thinNanoseconds ? Self.thinBytes : Int.max
        if isLoading { mostBytes = 0 }
        transport.limitBursts(toBytes: quiet < Self.thinNanoseconds ? Self.thinBytes : nil)
        var didPush = false
        let lanes = transport.laneCount == 1 ? 0..<1 : 1..<transport.laneCount
        for number in lanes {
            let lane = LaneIndex(UInt8(number))
            guard transport.freeSlots(lane) > 8, transport.pendingBytes(lane) < Self.mostBulkBytesPending, memory.hasRoom(forPush: true)
            else { continue }
            // Zero ranges are 32 bytes each: a few of them go along at once.
            for _ in 0..<16 {
                guard let command = core.engine.nextBulk(&memory, mostBytes: mostBytes) else { break }
                submit(command, lane)
                didPush = true
                if case .pages = command { break }
            }
        }
        return didPush ? .immediate : idle(isPushing: true)
    }

    private mutating func idle(isPushing: Bool) -> WaitPolicy {
        WaitPolicy(
            spinNanoseconds: spin.nanoseconds(isAwaited: transport.pendingBytes(.urgent) > 0, isPushing: isPushing),
            timeoutNanoseconds: 100_000_000)
    }

    private mutating func submit(_ command: SourceCommand, _ lane: LaneIndex) {
        // What was found out last may be wrong then, the kind of a page included.
        if let failure = memory.failure { return core.end(failure) }
        let accepted: Bool
        switch command {
        case .pages(let range, let reason):
            let lent = unsafe memory.lend(range)
            let header = unsafe FrameHeader(.pages, reason: reason, range: range, payloadBytes: lent.bytes.count)
            // SAFETY: the memory keeps what it lends until it is taken back, which the shard does when it was sent.
            accepted = unsafe transport.submit(header, payload: lent.bytes, token: lent.token, lane: lane)
        case .zero(let range, let reason):
            accepted = transport.submit(FrameHeader(.zeroPages, reason: reason, range: range), lane: lane)
        }
        // Room was checked before the engine was asked; only a lane that has just closed refuses: the link is lost.
        if !accepted { core.lose(.linkLost("a lane refused a frame")) }
    }

    private mutating func announceEnd() {
        guard core.engine.isAllSent else { return }
        for lane in 0..<transport.laneCount where !endedLanes[lane] {
            endedLanes[lane] = transport.submit(FrameHeader(.allSent), lane: LaneIndex(UInt8(lane)))
        }
    }

    private mutating func finish() {
        guard let ending = core.ending else {
            transport.abandon()
            return publishStatistics(force: true)
        }
        if let reason = ending {
            let (header, payload) = reason.failure.encoded()
            if case .peerFailed = reason {
            } else {
                _ = transport.submit(header, copying: payload, lane: .urgent)
            }
        } else {
            _ = transport.submit(FrameHeader(.farewell), lane: .urgent)
        }
        transport.close()
        publishStatistics(force: true)
    }

    private mutating func publishStatistics(force: Bool) {
        let now = MonotonicClock.nowNanoseconds()
        guard force || now >= nextStatisticsNanoseconds else { return }
        nextStatisticsNanoseconds = now + Self.statisticsIntervalNanoseconds
        if !force, core.guestStoppedNanoseconds != nil, !core.engine.isAllSent {
            memory.verify()
            if let failure = memory.failure { core.end(failure) }
        }
        statistics.publish(core.snapshot())
    }
}

/// What of a source's session outlives a link.
struct SourceState<Memory: SessionMemory & ~Copyable>: ~Copyable {
    var core: SourceCore
    var memory: Memory
}
