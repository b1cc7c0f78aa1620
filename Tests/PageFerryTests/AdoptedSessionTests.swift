import Glibc
import PageCore
import SecureStream
import StreamTransport
import TestSupport
import Testing

@testable import PageFerry

/// Sessions over sockets that somebody else has connected.
@Suite(.leavesNothing, .serialized, .enabled(if: sessionsArePossible)) struct AdoptedSessionTests {
    private static let pauseNanoseconds: UInt64 = 60_000_000_000

    /// Pairs of connected sockets, nonblocking as a VMM's are.
    private struct Lanes {
        let source: AdoptedSockets
        let destination: AdoptedSockets
        private let ends: [[Int32]]

        /// - Parameter isToBeCut: `cut` is called.
        init(_ count: Int, isToBeCut: Bool = false) throws {
            var ends: [[Int32]] = [[], []]
            defer { if !isToBeCut { for end in ends.joined() { close(end) } } }
            for _ in 0..<count {
                var pair: [Int32] = [-1, -1]
                let kind = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
                try #require(socketpair(AF_UNIX, kind, 0, &pair) == 0)
                for side in 0..<2 { ends[side].append(pair[side]) }
            }
            source = try AdoptedSockets(copying: ends[0])
            destination = try AdoptedSockets(copying: ends[1])
            self.ends = ends
        }

        func cut() {
            for end in ends.joined() {
                shutdown(end, Int32(SHUT_RDWR))
                close(end)
            }
        }
    }

    private func destination(
        _ guest: Guest, _ sockets: AdoptedSockets, returningTo address: StreamAddress? = nil, security: LaneSecurity = .plain,
        configure: (inout DestinationSession.Configuration) -> Void = { _ in }
    ) throws -> LocalDestination {
        try LocalDestination(guest, configure: configure) { regions in
            var configuration = DestinationConnector.Configuration()
            configuration.security = security
            return try DestinationConnector(adopting: sockets, returningTo: address, configuration: configuration).accept(regions)
        }
    }

    /// One connection carries everything; with more of them bulk lanes carry the push.
    @Test(arguments: [GuestKind.shared, .anonymous], [1, 4]) func wholeRegion(_ kind: GuestKind, _ count: Int) throws {
        let pages = 2048
        let lanes = try Lanes(count)
        let source = try LocalSource(try makeImage(pages: pages), adopting: lanes.source)
        defer { source.stop() }
        let guest = try Guest(kind, pages: pages)
        let destination = try destination(guest, lanes.destination)
        let readers = guest.startReaders(count: 2, seed: 5)
        #expect(try destination.end() == nil)
        guest.release()
        #expect(readers.join() == 0)
        let statistics = destination.session.statistics.read()
        #expect(statistics.missingPages == 0 && statistics.counts.push > 0)
        #expect(try #require(source.nextEnd()).reason == nil)
    }

    /// More sockets than the source grants lanes: the rest is closed, on both sides.
    @Test func moreSocketsThanLanes() throws {
        let lanes = try Lanes(4)
        let source = try LocalSource(try makeImage(pages: 64), adopting: lanes.source, mostLanes: 2)
        defer { source.stop() }
        let guest = try Guest(.shared, pages: 64)
        let destination = try destination(guest, lanes.destination)
        #expect(try destination.end() == nil)
        // Two that hung up before a word, and the session.
        let ends = try (0..<3).map { _ in try #require(source.nextEnd()).reason }
        #expect(ends.count { $0 == nil } == 1, "\(ends)")
    }

    /// What runs in a pause: a page that is waited for comes over the next sockets, whoever brings them first.
    @Test(arguments: [false, true]) func aLostLinkGoesOnOverOthers(_ destinationFirst: Bool) throws {
        let pages = 512
        let first = try Lanes(2, isToBeCut: true)
        let source = try LocalSource(
            try makeImage(pages: pages), adopting: first.source, pauseNanoseconds: Self.pauseNanoseconds)
        defer { source.stop() }
        let guest = try Guest(.shared, pages: pages)
        let destination = try destination(guest, first.destination) { configuration in
            configuration.pauseNanoseconds = Self.pauseNanoseconds
            configuration.creditBytes = 0
        }
        let session = destination.session
        #expect(guest.words.isRight(7))
        first.cut()
        #expect(poll { session.statistics.read().phase == .postcopyPaused })
        let page = try #require((0..<pages).last { !Content.isZero($0) })
        let waiting = WaitingThread(guest, page: page)
        #expect(poll { session.statistics.read().waitingFaults == 1 }, "nobody knows a way, and the fault is taken all the same")
        #expect(waiting.sawContent == nil)
        let second = try Lanes(1)
        if destinationFirst { session.recover(adopting: second.destination) }
        source.adopt(second.source)
        if !destinationFirst { session.recover(adopting: second.destination) }
        waiting.join()
        #expect(waiting.sawContent == true)
        #expect(session.statistics.read().pauseCount == 1)
        session.end(.cancelled)
        _ = try destination.end()
        guest.release()
    }

    /// Sockets that lead nowhere are used up; then the known address is looked at.
    @Test func aLostLinkIsFoundAgainAtItsAddress() throws {
        let pages = 512
        let lanes = try Lanes(2, isToBeCut: true)
        let source = try LocalSource(try makeImage(pages: pages), name: "adopted", pauseNanoseconds: Self.pauseNanoseconds)
        defer { source.stop() }
        source.adopt(lanes.source)
        let guest = try Guest(.anonymous, pages: pages)
        let destination = try destination(guest, lanes.destination, returningTo: source.address) { configuration in
            configuration.pauseNanoseconds = Self.pauseNanoseconds
            configuration.creditBytes = 0
        }
        #expect(guest.words.isRight(7))
        lanes.cut()
        #expect(poll { destination.session.statistics.read().pauseCount == 1 })
        #expect(guest.words.isRight(300))
        let useless = try Lanes(1)
        _ = useless.source.takeAll().map { close($0) }
        destination.session.recover(adopting: useless.destination)
        #expect(poll { destination.session.statistics.read().pauseCount == 2 })
        #expect(guest.words.isRight(200))
        destination.session.end(.cancelled)
        _ = try destination.end()
        guest.release()
    }

    /// Without a pause, and without a way, the session ends with its link.
    @Test func withoutAPauseTheSessionEndsWithItsLink() throws {
        let lanes = try Lanes(1, isToBeCut: true)
        let source = try LocalSource(try makeImage(pages: 64), adopting: lanes.source, startsAtOnce: false)
        defer { source.stop() }
        let guest = try Guest(.shared, pages: 64)
        let destination = try destination(guest, lanes.destination)
        lanes.cut()
        let end = try #require(try destination.end())
        guard case .linkLost = end else { throw end }
        guest.release()
    }

    /// Nobody speaks over what was adopted: the server can be stopped all the same.
    @Test func silenceHoldsNothingUp() throws {
        let lanes = try Lanes(3)
        let source = try LocalSource(try makeImage(pages: 64), adopting: lanes.source)
        source.stop()
        #expect(lanes.destination.count == 3, "the other ends are open until here")
    }

    @Test func throughTLS() throws {
        let files = try TestCredentials()
        let key = TLSCredentials.preSharedKey(path: try files.key())
        let (server, client) = (try LaneSecurity(key, role: .server), try LaneSecurity(key, role: .client))
        let lanes = try Lanes(2)
        let source = try LocalSource(try makeImage(pages: 512), adopting: lanes.source, security: server)
        defer { source.stop() }
        let guest = try Guest(.shared, pages: 512)
        let destination = try destination(guest, lanes.destination, security: client)
        #expect(try destination.end() == nil)
        for page in 0..<512 where !guest.words.isRight(page) { Issue.record("page \(page) differs") }
    }

    /// A certificate is checked against a name: a socket has none.
    @Test func aSourceWithoutANameIsNotTrusted() throws {
        let files = try TestCredentials()
        try files.authority()
        try files.certificate("destination", names: "DNS:destination.test")
        let security = try LaneSecurity(
            .certificates(
                chainPath: files.file("destination.pem"), keyPath: files.file("destination.key"), authorityPath: files.file("authority.pem")
            ),
            role: .client)
        let lanes = try Lanes(1)
        let guest = try Guest(.shared, pages: 64)
        let error = #expect(throws: SessionError.self) { try destination(guest, lanes.destination, security: security) }
        #expect(error?.description.contains("give the name it carries") == true, "\(String(describing: error))")
    }
}
