import Demonstration
import Foundation
import Glibc
import PageCore
import PageEngine
import PageWire
import SecureStream
import StreamTransport
import TestSupport
import Testing

@testable import PageFerry

/// Sessions whose lanes go through TLS, and peers that have no business there.
@Suite(.leavesNothing, .serialized, .enabled(if: sessionsArePossible)) struct SecureSessionTests {
    private static let pages = 2048

    /// Both sides' credentials of a kind, in files of this test's own.
    private struct Sides {
        let files: TestCredentials
        let source: LaneSecurity
        let destination: LaneSecurity

        init(_ kind: Kind) throws {
            let files = try TestCredentials()
            self.files = files
            switch kind {
            case .sharedKey:
                let key = TLSCredentials.preSharedKey(path: try files.key())
                source = try LaneSecurity(key, role: .server)
                destination = try LaneSecurity(key, role: .client)
            case .certificates:
                try files.authority()
                try files.certificate("source", names: "DNS:source.test")
                try files.certificate("destination", names: "DNS:destination.test")
                func side(_ name: String) -> TLSCredentials {
                    .certificates(
                        chainPath: files.file("\(name).pem"), keyPath: files.file("\(name).key"), authorityPath: files.file("authority.pem")
                    )
                }
                source = try LaneSecurity(side("source"), role: .server, peerName: "destination.test")
                destination = try LaneSecurity(side("destination"), role: .client, peerName: "source.test")
            }
        }
    }

    enum Kind: CaseIterable { case sharedKey, certificates }

    private func source(_ security: LaneSecurity, _ name: String, pauseNanoseconds: UInt64 = 0, stepNanoseconds: UInt64 = 10_000_000_000)
        throws -> LocalSource
    {
        try LocalSource(try makeImage(pages: Self.pages), name: name, pauseNanoseconds: pauseNanoseconds) { configuration in
            configuration.security = security
            configuration.stepTimeoutNanoseconds = stepNanoseconds
        }
    }

    @Test(arguments: Kind.allCases, [GuestKind.shared, .anonymous]) func wholeRegion(_ kind: Kind, _ memory: GuestKind) throws {
        let sides = try Sides(kind)
        let source = try source(sides.source, "tls")
        defer { source.stop() }
        let guest = try Guest(memory, pages: Self.pages)
        let destination = try LocalDestination(guest, from: source.address, bulkLanes: 3, security: sides.destination)
        let readers = guest.startReaders(count: 3, seed: 8)
        #expect(try destination.end() == nil)
        guest.release()
        #expect(readers.join() == 0)
        for page in 0..<Self.pages where !guest.words.isRight(page) { Issue.record("page \(page) differs") }
        #expect(try #require(source.nextEnd()).reason == nil)
    }

    /// Cut at random bytes, of records now, and found again.
    @Test(arguments: 1...4) func aLostLinkIsFoundAgain(_ seed: UInt64) throws {
        let sides = try Sides(.sharedKey)
        let source = try source(sides.source, "tls-cut", pauseNanoseconds: 60_000_000_000)
        defer { source.stop() }
        let relay = try CuttingRelay(path: socketPath("tls-relay"), to: socketPath("tls-cut")) { cuts in
            var random = SeededRandom(seed: seed &+ UInt64(cuts))
            // The handshake and the set-up alone take some thousand bytes a lane.
            return 20_000 + random.next(below: 1_000_000 << min(20, cuts / 8))
        }
        defer { relay.stop() }
        let guest = try Guest(.shared, pages: Self.pages)
        let destination = try LocalDestination(guest, from: .unix(path: relay.path), security: sides.destination) { configuration in
            configuration.pauseNanoseconds = 60_000_000_000
        }
        let readers = guest.startReaders(count: 2, seed: seed)
        #expect(try destination.end() == nil)
        guest.release()
        #expect(readers.join() == 0)
        for page in 0..<Self.pages where !guest.words.isRight(page) { Issue.record("page \(page) differs") }
    }

    private func reason(_ source: LocalSource, _ security: LaneSecurity) throws -> SessionError? {
        let guest = try Guest(.shared, pages: Self.pages)
        do {
            _ = try LocalDestination(guest, from: source.address, security: security)
            return nil
        } catch let error as SessionError {
            #expect(!error.description.contains("\n"))
            return error
        }
    }

    private func isDistrust(_ error: SessionError?) -> Bool {
        if case .notTrusted? = error { true } else { false }
    }

    /// Each side learns at once, and whoever has the right key is served afterwards.
    @Test func whoHasAnotherKeyIsRefused() throws {
        let (ours, theirs) = (try Sides(.sharedKey), try Sides(.sharedKey))
        let source = try source(ours.source, "tls-key")
        defer { source.stop() }
        let refused = try reason(source, theirs.destination)
        #expect(isDistrust(refused), "\(String(describing: refused))")
        #expect(isDistrust(try #require(source.nextEnd()).reason))
        let guest = try Guest(.shared, pages: Self.pages)
        #expect(try LocalDestination(guest, from: source.address, security: ours.destination).end() == nil)
    }

    /// A destination whose certificate is by nobody the source knows is told so before it believes that it is connected.
    @Test func whoHasAStrangersCertificateIsRefused() throws {
        let (ours, theirs) = (try Sides(.certificates), try Sides(.certificates))
        let mixed = try LaneSecurity(
            .certificates(
                chainPath: theirs.files.file("destination.pem"), keyPath: theirs.files.file("destination.key"),
                authorityPath: ours.files.file("authority.pem")), role: .client, peerName: "source.test")
        let source = try source(ours.source, "tls-stranger")
        defer { source.stop() }
        let refused = try reason(source, mixed)
        #expect(refused != nil)
        let end = try #require(source.nextEnd()).reason
        #expect(isDistrust(end), "\(String(describing: end))")
    }

    @Test func aPlainDestinationIsRefused() throws {
        let source = try source(try Sides(.sharedKey).source, "tls-plain")
        defer { source.stop() }
        #expect(try reason(source, .plain) != nil)
        #expect(isDistrust(try #require(source.nextEnd()).reason))
    }

    @Test func aPlainSourceIsRefused() throws {
        let source = try source(.plain, "plain-tls")
        defer { source.stop() }
        #expect(isDistrust(try reason(source, try Sides(.sharedKey).destination)))
        #expect(try #require(source.nextEnd()).reason != nil)
    }

    /// A peer that takes nothing any more keeps no thread of a lane that has been closed.
    @Test func whoTakesNothingKeepsNobody() throws {
        let sides = try Sides(.sharedKey)
        var ends: [Int32] = [-1, -1]
        try #require(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0)
        let accepted = Mailbox<Int32>()
        let serverEnd = ends[1]
        let server = DedicatedThread(name: "test-server") {
            do {
                accepted.post(
                    try sides.source.protect(try StreamConnection(adopting: serverEnd), host: nil, timeoutNanoseconds: 10_000_000_000)
                        .release())
            } catch {
                accepted.post(-1)
            }
        }
        let lane = try sides.destination.protect(try StreamConnection(adopting: ends[0]), host: nil, timeoutNanoseconds: 10_000_000_000)
            .release()
        let other = try #require(accepted.next())
        server.join()
        // The other end's lane is never read: everything on the way fills up.
        let piece = [UInt8](repeating: 7, count: 64 << 10)
        var entry = pollfd(fd: lane, events: Int16(POLLOUT), revents: 0)
        while Glibc.poll(&entry, 1, 500) == 1 { _ = send(lane, piece, piece.count, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL)) }
        #expect(Self.pumps == 2)
        close(lane)
        #expect(poll { Self.pumps <= 1 })
        close(other)
        #expect(poll { Self.pumps == 0 })
    }

    private static var pumps: Int {
        let tasks = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/self/task")) ?? []
        return tasks.count { (try? String(contentsOfFile: "/proc/self/task/\($0)/comm", encoding: .utf8)) == "tls\n" }
    }

    /// Silent from the start, or in the middle of the handshake: its time ends, and nobody else waits for it.
    @Test func whoStallsInTheHandshakeHoldsNobodyUp() throws {
        let sides = try Sides(.sharedKey)
        let source = try source(sides.source, "tls-stall", stepNanoseconds: 2_000_000_000)
        defer { source.stop() }
        // The first bytes of a ClientHello's record.
        let silent = try [[], [0x16, 0x03, 0x01, 0x01, 0x00, 0x01, 0x00]].map { (bytes: [UInt8]) in
            let connection = try RawConnection(path: socketPath("tls-stall"))
            connection.write(bytes)
            return connection
        }
        let guest = try Guest(.shared, pages: Self.pages)
        #expect(try LocalDestination(guest, from: source.address, security: sides.destination).end() == nil)
        var ends: [SessionError?] = []
        for _ in 0...silent.count { ends.append(try #require(source.nextEnd()).reason) }
        #expect(ends.count { if case .timedOut? = $0 { true } else { false } } == silent.count, "\(ends)")
    }
}
