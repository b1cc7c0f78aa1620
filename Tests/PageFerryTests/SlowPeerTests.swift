import Glibc
import PageCore
import PageEngine
import PageWire
import StreamTransport
import TestSupport
import Testing

@testable import PageFerry

/// Peers that say nothing, or too little too slowly: each wait for them ends, in its error, and nobody else waits meanwhile.
@Suite(.leavesNothing, .serialized, .enabled(if: sessionsArePossible)) struct SlowPeerTests {
    private static let pages = 256
    /// Long enough for an honest peer on a busy host, short enough for a test.
    private static let shortNanoseconds: UInt64 = 2_000_000_000

    private static func hello(laneCount: UInt8 = 1) -> [UInt8] {
        Hello(role: .destination, lane: 0, laneCount: laneCount, features: [], session: .unassigned).encoded()
    }

    private static func greeting(laneCount: UInt8 = 1) -> [UInt8] {
        let payload = hello(laneCount: laneCount)
        return headerBytes(FrameHeader(.hello, payloadBytes: payload.count)) + payload
    }

    private func isTimeout(_ error: SessionError?) -> Bool {
        if case .timedOut? = error { !error!.description.contains("\n") } else { false }
    }

    private func pullsEverything(_ source: LocalSource) throws {
        let guest = try Guest(.shared, pages: Self.pages)
        #expect(try LocalDestination(guest, from: source.address).end() == nil)
        #expect((0..<Self.pages).allSatisfy { guest.words.isRight($0) })
    }

    // MARK: Destinations

    /// Silent from the start, inside a header, inside a payload, before the regions are accepted: all at once.
    @Test func silentDestinationsHoldNobodyUp() throws {
        let source = try LocalSource(try makeImage(pages: Self.pages), name: "silent") { configuration in
            configuration.stepTimeoutNanoseconds = Self.shortNanoseconds
            configuration.acceptTimeoutNanoseconds = Self.shortNanoseconds
            configuration.mostSessions = 12
        }
        defer { source.stop() }
        let greeting = Self.greeting()
        let silent = try (0..<40).map { number in
            let connection = try RawConnection(path: socketPath("silent"))
            connection.write(Array([greeting.prefix(0), greeting.prefix(9), greeting.prefix(50), greeting[...]][number % 4]))
            return connection
        }
        // Twelve places, ten of them held by destinations that never accept.
        try pullsEverything(source)
        var ends: [SessionError?] = []
        for _ in 0...silent.count { ends.append(try #require(source.nextEnd()).reason) }
        #expect(ends.count { $0 == nil } == 1)
        #expect(ends.count(where: isTimeout) == silent.count, "\(ends)")
    }

    /// A byte now and then is not enough: the time is for the whole frame.
    @Test func bytesThatDripBuyNoTime() throws {
        let source = try LocalSource(try makeImage(pages: Self.pages), name: "drip") {
            $0.stepTimeoutNanoseconds = Self.shortNanoseconds / 4
        }
        defer { source.stop() }
        let connection = try RawConnection(path: socketPath("drip"))
        let dripping = DedicatedThread(name: "drip") {
            // Ends when the source has hung up, or after thrice the time it may take.
            for byte in Self.greeting().prefix(79) where connection.isOpen {
                connection.write([byte])
                _ = Glibc.poll(nil, 0, 20)
            }
        }
        #expect(isTimeout(try #require(source.nextEnd()).reason))
        dripping.join()
        try pullsEverything(source)
    }

    /// Has accepted, and never joins its lanes, or hangs up: its place is given to others.
    @Test(arguments: [false, true]) func lanesThatAreNeverJoined(_ hangsUp: Bool) throws {
        let source = try LocalSource(try makeImage(pages: Self.pages), name: "lanes") { configuration in
            configuration.stepTimeoutNanoseconds = Self.shortNanoseconds / 4
            configuration.mostSessions = 1
        }
        defer { source.stop() }
        let connection = try RawConnection(path: socketPath("lanes"))
        connection.write(Self.greeting(laneCount: 3))
        #expect(connection.readFrame()?.header.kind == .hello)
        #expect(connection.readFrame()?.header.kind == .regionTable)
        connection.write(FrameHeader(.accept))
        if hangsUp { connection.hangUp() }
        let reason = try #require(source.nextEnd()).reason
        #expect(isTimeout(reason) && reason?.description.contains("joined 1 of 3 lanes") == true, "\(String(describing: reason))")
        if !hangsUp { #expect(connection.readFrame()?.header.kind == .failure, "it is told why") }
        try pullsEverything(source)
    }

    /// An exclusive source is busy for the second one, which changes nothing for the first.
    @Test func twoDestinationsOfAnExclusiveSource() throws {
        let source = try LocalSource(try makeImage(pages: Self.pages), name: "exclusive", startsAtOnce: false) { $0.mostSessions = 1 }
        defer { source.stop() }
        let guest = try Guest(.shared, pages: Self.pages)
        let first = try LocalDestination(guest, from: source.address)
        let second = try Guest(.shared, pages: Self.pages)
        do {
            _ = try LocalDestination(second, from: source.address)
            Issue.record("the second one is refused")
        } catch let error as SessionError {
            guard case .peerFailed(let failure) = error else { throw error }
            #expect(failure.code == .busy && failure.text.contains("try again later"))
        }
        #expect(try #require(source.nextEnd()).reason != nil)
        source.guestStopped()
        #expect(try first.end() == nil)
        #expect((0..<Self.pages).allSatisfy { guest.words.isRight($0) })
    }

    // MARK: Sources

    @Test(arguments: 0..<4) func slowSources(_ way: Int) throws {
        let hello = Hello(
            role: .source, lane: 0, laneCount: 1, features: [], session: SessionIdentity(identifier: 1, secretLow: 2, secretHigh: 3)
        ).encoded()
        let head = headerBytes(FrameHeader(.hello, payloadBytes: hello.count))
        let table = headerBytes(FrameHeader(.regionTable, payloadBytes: 4000))
        let said = [[], head.prefix(31) + [], head + hello, head + hello + table + [1, 0]][way]
        let listener = try SilentListener(name: "slow-source", saying: said)
        var configuration = DestinationConnector.Configuration()
        configuration.stepTimeoutNanoseconds = Self.shortNanoseconds / 4
        do throws(SessionError) {
            _ = try DestinationConnector(to: .unix(path: listener.path), configuration: configuration)
            Issue.record("it is given up")
        } catch {
            #expect(isTimeout(error), "\(error)")
        }
    }

    /// It grants a lane, and answers whoever joins it with another offer.
    @Test func aSourceThatOffersInPlaceOfAccepting() throws {
        let listener = try SilentListener(name: "ignoring", saying: try Self.offer(laneCount: 2))
        let guest = try Guest(.shared, pages: Self.pages)
        let regions = try DestinationRegions([try guest.handOver()])
        var configuration = DestinationConnector.Configuration()
        configuration.stepTimeoutNanoseconds = Self.shortNanoseconds / 4
        let connector = try DestinationConnector(to: .unix(path: listener.path), configuration: configuration)
        do throws(SessionError) {
            _ = try connector.accept(regions)
            Issue.record("it is given up")
        } catch {
            #expect(error == .unexpectedFrame(.hello), "\(error)")
        }
    }

    private static func offer(laneCount: UInt8) throws -> [UInt8] {
        let hello = Hello(
            role: .source, lane: 0, laneCount: laneCount, features: [], session: SessionIdentity(identifier: 1, secretLow: 2, secretHigh: 3)
        ).encoded()
        let table = RegionTable.encode(try RegionLayout([RegionDescription(name: "memory", lengthBytes: pages * 4096, pageSize: .fourKiB)]))
        return headerBytes(FrameHeader(.hello, payloadBytes: hello.count)) + hello
            + headerBytes(FrameHeader(.regionTable, payloadBytes: table.count)) + table
    }

    /// A page that is there already, sent once more: dropped, whatever it holds.
    @Test(arguments: [GuestKind.shared, .anonymous]) func pagesNobodyAskedFor(_ kind: GuestKind) throws {
        let guest = try Guest(kind, pages: Self.pages)
        let layout = try RegionLayout([RegionDescription(name: "memory", lengthBytes: Self.pages * 4096, pageSize: .fourKiB)])
        let seen = Mailbox<Void>()
        let source = try RawSource(name: "unasked", layout: layout, laneCount: 1) { lanes in
            let range = PageRange(region: 0, first: 7, count: 1)
            lanes[0].write(FrameHeader(.guestStopped))
            lanes[0].write(FrameHeader(.pages, range: range), [UInt8](repeating: 0x5A, count: 4096))
            _ = seen.next(deadlineNanoseconds: MonotonicClock.nowNanoseconds() + 30_000_000_000)
            for _ in 0..<100 { lanes[0].write(FrameHeader(.pages, range: range), [UInt8](repeating: 0xEE, count: 4096)) }
            lanes[0].write(FrameHeader(.zeroPages, range: range))
            lanes[0].write(FrameHeader(.failure), Array("enough".utf8))
        }
        let destination = try LocalDestination(guest, from: .unix(path: source.path), bulkLanes: 0)
        #expect(guest.words.isRight(7, .rewritten))
        seen.post(())
        #expect(try destination.end() == .peerFailed(Failure(.unspecified, "enough")))
        #expect(guest.words.isRight(7, .rewritten), "the page is what it was")
        guest.release()
    }
}
