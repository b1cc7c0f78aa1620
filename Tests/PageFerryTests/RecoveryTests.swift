import Demonstration
import Glibc
import PageCore
import PageEngine
import PageWire
import StreamTransport
import Synchronization
import TestSupport
import Testing

@testable import PageFerry

/// Links that break at any byte and are found again: nothing is lost, and nothing installed twice or half.
@Suite(.leavesNothing, .serialized, .enabled(if: sessionsArePossible)) struct RecoveryTests {
    private static let pauseNanoseconds: UInt64 = 60_000_000_000

    private func move(
        _ kind: GuestKind, pages: Int, bulkLanes: Int, seed: UInt64, meanBytes: Int, removes: Bool = false
    ) throws {
        let source = try LocalSource(
            try makeImage(pages: pages, pageSize: kind.pageSize), name: "recovery", pauseNanoseconds: Self.pauseNanoseconds)
        defer { source.stop() }
        // A session needs some bytes to come back at all: the first cuts come soon, later ones ever later.
        let relay = try CuttingRelay(path: socketPath("cutting"), to: socketPath("recovery")) { cuts in
            var random = SeededRandom(seed: seed &+ UInt64(cuts))
            return 600 + random.next(below: meanBytes << min(20, cuts / 8))
        }
        defer { relay.stop() }
        let guest = try Guest(kind, pages: pages)
        let destination = try connect(guest, relay, bulkLanes: bulkLanes)
        let readers = guest.startReaders(count: removes ? 0 : 3, seed: seed)
        var expected = [Expectation](repeating: .content, count: pages)
        if removes { giveUp(guest, &expected, seed: seed) }
        #expect(try destination.end() == nil)
        guest.release()
        #expect(readers.join() == 0)
        for page in 0..<pages where !guest.words.isRight(page, expected[page]) { Issue.record("page \(page) is not \(expected[page])") }
        let statistics = destination.session.statistics.read()
        #expect(statistics.missingPages == 0)
        let counts = statistics.counts
        #expect(counts.demand + counts.window + counts.push + counts.zero + counts.removed == pages, "\(counts)")
        // Attempts that were cut are told of first, and lanes that came to one after the next had taken its place.
        while let reason = try #require(source.nextEnd(), "the source has heard that every page is in").reason {
            switch reason {
            case .linkLost, .unknownSession: continue
            default: throw reason
            }
        }
    }

    /// Connections are cut before the session begins too: then it is begun again.
    private func connect(_ guest: Guest, _ relay: CuttingRelay, bulkLanes: Int) throws -> LocalDestination {
        while true {
            do {
                return try LocalDestination(guest, from: .unix(path: relay.path), bulkLanes: bulkLanes) { configuration in
                    configuration.pauseNanoseconds = Self.pauseNanoseconds
                }
            } catch let error as SessionError {
                switch error {
                case .linkLost, .cannotConnect, .timedOut: continue
                default: throw error
                }
            }
        }
    }

    private func giveUp(_ guest: Guest, _ expected: inout [Expectation], seed: UInt64) {
        var random = SeededRandom(seed: seed)
        for round in 0..<40 {
            let first = random.next(below: guest.pages)
            let range = first..<min(guest.pages, first + 1 + random.next(below: 64))
            #expect(guest.remove(range))
            for page in range { expected[page] = .zero }
            if round % 3 == 0 {
                guest.words.write(range.lowerBound, .rewritten)
                expected[range.lowerBound] = .rewritten
            }
            #expect(guest.words.isRight(range.upperBound - 1, expected[range.upperBound - 1]), "round \(round)")
        }
    }

    @Test(arguments: [GuestKind.shared, .anonymous], 1...8) func cutAtAnyByte(_ kind: GuestKind, _ seed: UInt64) throws {
        try move(kind, pages: 2048, bulkLanes: Int(seed % 4), seed: seed, meanBytes: 20_000 << Int(seed % 5))
    }

    @Test(arguments: [GuestKind.shared, .anonymous], 1...4) func cutWhileTheGuestGivesPagesUp(_ kind: GuestKind, _ seed: UInt64) throws {
        try move(kind, pages: 2048, bulkLanes: 2, seed: seed, meanBytes: 100_000, removes: true)
    }

    /// The source's listener is gone for a while: whoever touches a missing page waits, and is told nothing wrong.
    @Test(arguments: [GuestKind.shared, .anonymous]) func longPause(_ kind: GuestKind) throws {
        let pages = 256
        let source = try LocalSource(try makeImage(pages: pages), name: "long", pauseNanoseconds: Self.pauseNanoseconds)
        defer { source.stop() }
        let path = socketPath("long.relay")
        let relay = try CuttingRelay(path: path, to: socketPath("long")) { _ in .max }
        let guest = try Guest(kind, pages: pages)
        let destination = try LocalDestination(guest, from: .unix(path: path)) { configuration in
            configuration.pauseNanoseconds = Self.pauseNanoseconds
            configuration.creditBytes = 0
        }
        let session = destination.session
        #expect(guest.words.isRight(7))
        relay.stop()
        #expect(poll { session.statistics.read().phase == .postcopyPaused })
        let page = try #require((0..<pages).last { !Content.isZero($0) })
        let waiting = WaitingThread(guest, page: page)
        #expect(poll { session.statistics.read().waitingFaults == 1 }, "the fault is taken in the pause")
        #expect(poll { session.statistics.read().obstacle != nil })
        // What is given up in a pause reads as zero at once.
        #expect(guest.remove(0..<4))
        #expect(guest.words.isRight(2, .zero))
        #expect(waiting.sawContent == nil)
        let second = try CuttingRelay(path: path, to: socketPath("long")) { _ in .max }
        defer { second.stop() }
        waiting.join()
        #expect(waiting.sawContent == true)
        #expect(session.statistics.read().pauseCount == 1)
        session.end(.cancelled)
        _ = try destination.end()
        guest.release()
    }

    /// Without the secret nobody takes a session over, and the session does not notice.
    @Test func aSessionIsNotHijacked() throws {
        let pages = 512
        let source = try LocalSource(
            try makeImage(pages: pages), name: "hijack", startsAtOnce: false, pauseNanoseconds: Self.pauseNanoseconds)
        defer { source.stop() }
        let guest = try Guest(.shared, pages: pages)
        let destination = try LocalDestination(guest, from: source.address) { configuration in
            configuration.pauseNanoseconds = Self.pauseNanoseconds
            configuration.creditBytes = 0
        }
        source.guestStopped()
        let identity = destination.finder.session
        for guess in [
            SessionIdentity(identifier: identity.identifier, secretLow: identity.secretLow ^ 1, secretHigh: identity.secretHigh),
            SessionIdentity(identifier: identity.identifier, secretLow: 0, secretHigh: 0),
            SessionIdentity(identifier: identity.identifier ^ 4, secretLow: identity.secretLow, secretHigh: identity.secretHigh),
        ] {
            let thief = try RawConnection(path: socketPath("hijack"))
            let hello = Hello(role: .destination, lane: 0, laneCount: 1, features: [], session: guess)
            thief.write(FrameHeader(.hello), hello.encoded())
            let answer = try #require(thief.readFrame())
            #expect(answer.header.kind == .failure)
            #expect(answer.header.argument == FailureCode.unknownSession.rawValue)
            #expect(try #require(source.nextEnd()).reason == .unknownSession)
        }
        #expect((0..<pages).allSatisfy { guest.words.isRight($0) })
        #expect(destination.pauses == 0)
        destination.session.end(.cancelled)
        _ = try destination.end()
        guest.release()
    }

    /// A destination that has given an attempt to come back up, and made another: what still comes of the first does not push
    /// the second out, nor say what is here.
    @Test func anEarlierAttemptDoesNotPushALaterOut() throws {
        let pages = 64
        let source = try LocalSource(try makeImage(pages: pages), name: "twice", pauseNanoseconds: Self.pauseNanoseconds)
        defer { source.stop() }
        let first = try RawDestination(path: socketPath("twice"), laneCount: 1)
        #expect(poll { !source.statistics.isEmpty })
        func comeBack() throws -> RawConnection {
            let connection = try RawConnection(path: socketPath("twice"))
            let hello = Hello(role: .destination, lane: 0, laneCount: 1, features: [], session: first.session)
            connection.write(FrameHeader(.hello), hello.encoded())
            #expect(try #require(connection.readFrame()).header.kind == .hello)
            return connection
        }
        let early = try comeBack()
        let late = try comeBack()
        for payload in ResidentPages.encode(PageBitmap(pageCount: pages)) { early.write(FrameHeader(.residentPages), payload) }
        early.write(FrameHeader(.accept))
        early.readToEnd()
        var resident = PageBitmap(pageCount: pages)
        resident.insert(0..<pages)
        for payload in ResidentPages.encode(resident) { late.write(FrameHeader(.residentPages), payload) }
        late.write(FrameHeader(.accept))
        late.write(FrameHeader(.allResident))
        while let reason = try #require(source.nextEnd()).reason { #expect(reason == .unknownSession) }
    }

    /// A destination that comes back and lies about what it has.
    @Test(arguments: [0, 1, 2]) func whatIsHereIsChecked(_ lie: Int) throws {
        let pages = 512
        let source = try LocalSource(try makeImage(pages: pages), name: "liar", pauseNanoseconds: Self.pauseNanoseconds)
        defer { source.stop() }
        let guest = try Guest(.shared, pages: pages)
        let destination = try LocalDestination(guest, from: source.address) { configuration in
            configuration.pauseNanoseconds = Self.pauseNanoseconds
            configuration.creditBytes = 0
        }
        // A destination knows of its last lane a moment before the source has the session.
        #expect(poll { !source.statistics.isEmpty })
        let liar = try RawConnection(path: socketPath("liar"))
        liar.write(
            FrameHeader(.hello),
            Hello(role: .destination, lane: 0, laneCount: 1, features: [], session: destination.finder.session).encoded())
        #expect(try #require(liar.readFrame()).header.kind == .hello)
        let payload = [
            ResidentPages.encode(PageBitmap(pageCount: pages + 1))[0], ResidentPages.encode(PageBitmap(pageCount: 8))[0], [1, 2, 3],
        ][lie]
        liar.write(FrameHeader(.residentPages), payload)
        #expect(try #require(liar.readFrame()).header.kind == .failure)
        #expect(try #require(source.nextEnd()).reason == .damagedFrame(.malformedPayload(kind: .residentPages)))
        // The session is untouched.
        #expect(guest.words.isRight(9))
        destination.session.end(.cancelled)
        _ = try destination.end()
        guest.release()
    }

    /// A daemon may die the moment a destination knows its session: it is put down before, and forgotten when nothing comes of it.
    @Test func whatIsOfferedIsPutDownFirst() throws {
        let kept = Mutex<[SessionTicket]>([])
        let source = try LocalSource(try makeImage(pages: 64), name: "ticket") { configuration in
            configuration.willOffer = { ticket, _ in kept.withLock { $0.append(ticket) } }
            configuration.didWithdraw = { ticket in kept.withLock { $0.removeAll { $0 == ticket } } }
        }
        defer { source.stop() }
        let connection = try RawConnection(path: socketPath("ticket"))
        connection.write(
            FrameHeader(.hello), Hello(role: .destination, lane: 0, laneCount: 1, features: [], session: .unassigned).encoded())
        let offered = try Hello(decoding: try #require(connection.readFrame()).payload)
        #expect(kept.withLock { $0 } == [SessionTicket(offered.session)])
        connection.hangUp()
        #expect(poll { kept.withLock { $0.isEmpty } })
    }

    /// A daemon that takes over may hear at once that the destination has every page, before it has said a word itself.
    @Test(arguments: [false, true]) func aTakeoverMayBeTheEnd(_ isMachine: Bool) throws {
        let pages = 64
        let session = SourceHandshake.newSession()
        let features: ProtocolFeatures = isMachine ? .machineState : []
        // Nobody tells this session that the guest has stopped.
        let source = try LocalSource(try makeImage(pages: pages), name: "late", startsAtOnce: false) { configuration in
            configuration.expected = [SessionTicket(session)]
            configuration.features = features
        }
        defer { source.stop() }
        let destination = try RawConnection(path: socketPath("late"))
        destination.write(
            FrameHeader(.hello), Hello(role: .destination, lane: 0, laneCount: 1, features: features, session: session).encoded())
        #expect(try #require(destination.readFrame()).header.kind == .hello)
        var resident = PageBitmap(pageCount: pages)
        resident.insert(0..<pages)
        for payload in ResidentPages.encode(resident) { destination.write(FrameHeader(.residentPages), payload) }
        destination.write(FrameHeader(.accept))
        destination.write(FrameHeader(.allResident))
        #expect(try #require(source.nextEnd()).reason == nil)
        #expect(source.statistics[0].phase == .completed)
    }

    /// A daemon that takes over memory which lacks nothing sets the guest free, source or not, and ends well without one.
    @Test func aTakeoverThatLacksNothingNeedsNoSource() throws {
        let pages = 64
        let guest = try Guest(.shared, pages: pages)
        let regions = try DestinationRegions([try guest.handOver()])
        let record = try ResidentRecord.create(path: socketPath("record"), layout: regions.layout)
        defer { unlink(socketPath("record")) }
        record.insert(0..<pages)
        var configuration = DestinationSession.Configuration()
        configuration.takeover = DestinationSession.Takeover(record: record, standing: nil)
        configuration.farewellNanoseconds = 500_000_000
        let ends = Mailbox<SessionError?>()
        let session = DestinationSession(
            .takingOver(
                SessionTicket(SourceHandshake.newSession()), layout: regions.layout, address: .unix(path: socketPath("nobody")),
                configuration: DestinationConnector.Configuration()),
            regions: regions, machineState: nil, configuration: configuration
        ) { notice in
            if case .ended(let reason) = notice { ends.post(reason) }
        }
        // What is there is read, not asked for.
        #expect(guest.words.isRight(9, .zero))
        #expect(try #require(ends.next(deadlineNanoseconds: MonotonicClock.nowNanoseconds() + 30_000_000_000)) == nil)
        session.join()
        guest.release()
    }

    /// A source that cannot put a session down offers none, and says why.
    @Test func aSessionThatCannotBeKeptIsNotOffered() throws {
        let reason = SessionError.cannotKeepSession("the disk is full")
        let source = try LocalSource(try makeImage(pages: 64), name: "full") { configuration in
            configuration.willOffer = { (_, _) throws(SessionError) in throw reason }
        }
        defer { source.stop() }
        let guest = try Guest(.shared, pages: 64)
        #expect(throws: SessionError.peerFailed(reason.failure)) { try LocalDestination(guest, from: source.address) }
        #expect(try #require(source.nextEnd()).reason == reason)
    }

    /// A destination that cannot be told from a dead one is waited for, but not for ever.
    @Test func aPauseHasItsEnd() throws {
        let source = try LocalSource(try makeImage(pages: 64), name: "end", pauseNanoseconds: 50_000_000)
        defer { source.stop() }
        do {
            let destination = try RawDestination(path: socketPath("end"), laneCount: 1)
            for lane in destination.lanes { lane.hangUp() }
        }
        guard case .linkLost? = try #require(source.nextEnd()).reason else {
            Issue.record("the end of a pause is a lost link")
            return
        }
    }
}

extension SessionStatistics {
    var isOver: Bool { [.completed, .failed, .cancelled].contains(phase) }
}
