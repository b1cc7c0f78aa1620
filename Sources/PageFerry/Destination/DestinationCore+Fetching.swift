import PageCore
import PageEngine
import PageTransport
import PageWire

// Pages over RDMA: the destination fetches them by itself.
extension DestinationCore {
    /// Demanded pages have a lane of their own: nothing is ever in front of them there.
    private static var demandLane: LaneIndex { LaneIndex(1) }

    /// Fetches the pages that threads wait for, as far as slots and the lane go; rings the doorbell at once.
    mutating func fetchDemands<Transport: PageTransport & ~Copyable>(_ transport: inout Transport) {
        guard memory.isFetching else { return }
        var didFetch = false
        while memory.fetcher?.hasSlot == true, transport.freeOneSided(Self.demandLane) > 0,
            let (range, reason) = memory.fetcher!.nextUrgent(includingWindows: false)
        {
            fetch(range, reason, lane: Self.demandLane, &transport)
            didFetch = true
        }
        if didFetch { transport.flush(Self.demandLane) }
    }

    /// Whether faults are all there is to do now, over a transport that fetches.
    var isOnlyFetching: Bool {
        guard memory.isFetching, ending == nil, !memory.hasParked, memory.nextOutgoing == nil, machineState.isEmpty, !engine.isComplete
        else { return false }
        // While a demand is out the push rests anyway.
        return memory.hasUndemandedFetches(isPushResting: engine.waitingPages > 0) == false
    }

    /// Fetches what else is due: windows, then the push.
    ///
    /// - Parameter mostPushBytes: the most bytes of one unasked piece now; 0 holds the push.
    /// - Returns: whether anything was begun.
    mutating func fetchWhatIsDue<Transport: PageTransport & ~Copyable>(_ transport: inout Transport, mostPushBytes: Int) -> Bool {
        memory.freeLingering()
        var didFetch = false
        let windowLane = LaneIndex(UInt8(min(2, transport.laneCount - 1)))
        while memory.fetcher?.hasSlot == true, transport.freeOneSided(windowLane) > 0,
            let (range, reason) = memory.fetcher!.nextUrgent(includingWindows: true)
        {
            fetch(range, reason, lane: windowLane, &transport)
            didFetch = true
        }
        guard mostPushBytes > 0, ending == nil else { return didFetch }
        return push(&transport, mostPushBytes) || didFetch
    }

    private mutating func push<Transport: PageTransport & ~Copyable>(_ transport: inout Transport, _ mostBytes: Int) -> Bool {
        var didFetch = false
        var number = min(2, transport.laneCount - 1)
        while memory.fetcher?.hasSlotForPush == true {
            let lane = LaneIndex(UInt8(number))
            let isRead = memory.fetcher?.method == .read
            guard isRead ? transport.freeOneSided(lane) > 0 : transport.freeSlots(.urgent) > 8 else { return didFetch }
            guard let range = memory.fetcher!.nextPush(mostBytes: mostBytes) else { return didFetch }
            if isRead { fetch(range, .push, lane: lane, &transport) } else { grant(range, &transport) }
            didFetch = true
            number = number + 1 < transport.laneCount ? number + 1 : min(2, transport.laneCount - 1)
        }
        return didFetch
    }

    private mutating func fetch<Transport: PageTransport & ~Copyable>(
        _ range: PageRange, _ reason: PageReason, lane: LaneIndex, _ transport: inout Transport
    ) {
        guard let (slot, local, _) = begin(range, reason, isGranted: false),
            let remote = memory.fetcher?.keys.remote(range)
        else { return }
        let byteCount = engine.layout.byteCount(range)
        // Room was checked before the planner was asked; only a lane that has just closed refuses, and then the link is lost.
        if !transport.fetch(byteCount, from: remote, into: local, token: UInt64(slot), lane: lane) {
            lose(.linkLost("a lane refused a read"))
        }
    }

    private mutating func grant<Transport: PageTransport & ~Copyable>(_ range: PageRange, _ transport: inout Transport) {
        guard let (slot, _, target) = begin(range, .push, isGranted: true) else { return }
        let payload = target.encoded()
        let header = FrameHeader(.grant, range: range, payloadBytes: payload.count, sequence: UInt32(slot))
        if !transport.submit(header, copying: payload, lane: .urgent) { lose(.linkLost("the urgent lane refused a frame")) }
    }

    /// Takes a slot for a piece, and finds where its bytes go.
    ///
    /// - Returns: nil when the guest has given all of it up meanwhile.
    private mutating func begin(
        _ range: PageRange, _ reason: PageReason, isGranted: Bool
    ) -> (slot: Int, local: LocalMemory, target: WriteTarget)? {
        let byteCount = engine.layout.byteCount(range)
        let header = FrameHeader(.pages, reason: reason, range: range, payloadBytes: byteCount)
        let slot = memory.fetcher!.take(header, isGranted: isGranted)
        let placement: Placement
        do throws(EngineViolation) {
            placement = try engine.place(header, lane: slot)
        } catch {
            end(.violation(error))
            return nil
        }
        guard let registration = memory.registration else { preconditionFailure("only a fetcher fetches") }
        switch placement {
        case .direct:
            return (slot, registration.local(range), registration.target(range))
        case .slab:
            let slab = registration.slabMemory(slot)
            return (slot, slab.local, slab.target)
        case .discard:
            engine.arrived(header, lane: slot, &memory)
            memory.fetcher!.finished(slot, lingers: false)
            return nil
        }
    }

    mutating func fetched(_ token: UInt64, lane: LaneIndex) {
        guard let piece = memory.fetcher?.piece(Int(token)), !piece.isGranted else { return }
        finish(Int(token), piece)
    }

    mutating func written(_ immediate: UInt32, byteCount: Int, lane: LaneIndex) {
        let slot = Int(immediate)
        guard let piece = memory.fetcher?.piece(slot), piece.isGranted, piece.header.payloadBytes == byteCount else {
            return end(.damagedFrame(.rangeOutOfBounds))
        }
        finish(slot, piece)
    }

    private mutating func finish(_ slot: Int, _ piece: PageFetcher.Piece) {
        engine.arrived(piece.header, lane: slot, &memory)
        recordNeed(piece.header)
        memory.fetcher!.finished(slot, lingers: memory.isSlabInUse(slot))
        noticeMemoryFailure()
    }

    /// What the lanes were carrying is not here.
    mutating func loseFetches() {
        guard memory.isFetching else { return }
        for slot in 0..<(memory.registration?.slotCount ?? 0) where memory.fetcher?.piece(slot) != nil {
            engine.laneLost(lane: slot, &memory)
        }
    }

    // MARK: What the source announces

    /// Frames that only a source with RDMA sends.
    mutating func announced(_ header: FrameHeader, _ payload: [UInt8]) throws(EngineViolation) {
        switch header.kind {
        case .regionKeys:
            do throws(FrameError) {
                let keys = try RegionKeys.decode(payload)
                do throws(EngineViolation) { try memory.fetcher!.keys.add(keys) } catch { end(.violation(error)) }
            } catch {
                end(.damagedFrame(error))
            }
        case .regionKeysEnd:
            for range in memory.fetcher?.keys.unnamed ?? [] { try settleZeros(range) }
            memory.fetcher!.planner.start()
        case .zeroPages:
            try settleZeros(header.range)
        case .scanned:
            guard Int(header.region) < engine.layout.count, engine.layout.contains(header.range) else {
                throw .outsideRegions(header.range)
            }
            memory.fetcher!.scannedPages = engine.layout.sessionPages(header.range).upperBound
        default:
            end(.unexpectedFrame(header.kind))
        }
    }

    private mutating func settleZeros(_ range: PageRange) throws(EngineViolation) {
        try engine.zeroUnlessUnderway(range, &memory) { piece, memory in memory.fetcher!.planner.settled(piece) }
    }
}
