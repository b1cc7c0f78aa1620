import Glibc
import TestSupport
import Testing

@testable import SecureStream

/// Two ends of one stream in one thread, driven in turns.
@Suite(.leavesNothing) struct TLSConnectionTests {
    /// A connected pair of nonblocking sockets, closed with this value.
    private struct Pair: ~Copyable {
        let client: Int32
        let server: Int32

        init() throws {
            var ends: [Int32] = [-1, -1]
            try #require(socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue), 0, &ends) == 0)
            (client, server) = (ends[0], ends[1])
            // A peer that has gone is told by an error.
            signal(SIGPIPE, SIG_IGN)
        }

        deinit {
            close(client)
            close(server)
        }
    }

    private struct Session: ~Copyable {
        var client: TLSConnection
        var server: TLSConnection
        let pair: Pair
    }

    /// Handshakes in turns until both are through.
    private func connect(_ client: TLSContext, _ server: TLSContext, peerName: String? = nil, clientName: String? = nil) throws(TLSError)
        -> Session
    {
        guard let pair = try? Pair() else { throw .unavailable(reason: "no sockets") }
        var session = Session(
            client: try TLSConnection(client, socket: pair.client, peer: "the server", peerName: peerName),
            server: try TLSConnection(server, socket: pair.server, peer: "the client", peerName: clientName), pair: pair)
        var isDone = (false, false)
        for _ in 0..<20 where !isDone.0 || !isDone.1 {
            if !isDone.0 { isDone.0 = try session.client.handshake() == .moved(0) }
            if !isDone.1 { isDone.1 = try session.server.handshake() == .moved(0) }
        }
        guard isDone == (true, true) else { throw .timedOut(peer: "either") }
        return session
    }

    private func write(_ connection: inout TLSConnection, _ bytes: [UInt8]) throws -> TLSConnection.Outcome {
        try bytes.withUnsafeBytes { (bytes) throws(TLSError) in try connection.write(bytes) }
    }

    private func read(_ connection: inout TLSConnection) throws -> ([UInt8], TLSConnection.Outcome) {
        var bytes = [UInt8](repeating: 0, count: 64 << 10)
        let outcome = try bytes.withUnsafeMutableBytes { (bytes) throws(TLSError) in try connection.read(into: bytes) }
        guard case .moved(let count) = outcome else { return ([], outcome) }
        return (Array(bytes[..<count]), outcome)
    }

    private func certificates(_ credentials: TestCredentials, _ name: String, authority: String = "authority") -> TLSCredentials {
        .certificates(
            chainPath: credentials.file("\(name).pem"), keyPath: credentials.file("\(name).key"),
            authorityPath: credentials.file("\(authority).pem"))
    }

    private func exchange(_ session: inout Session) throws {
        for length in [1, 4096, 16 << 10] {
            let bytes = (0..<length).map { UInt8(truncatingIfNeeded: $0 &* 7) }
            #expect(try write(&session.client, bytes) == .moved(length))
            #expect(try read(&session.server).0 == bytes)
            #expect(try write(&session.server, bytes) == .moved(length))
            #expect(try read(&session.client).0 == bytes)
        }
        #expect(try read(&session.client).1 == .wantsRead)
    }

    @Test func aSharedKey() throws {
        let credentials = try TestCredentials()
        let key = TLSCredentials.preSharedKey(path: try credentials.key())
        var session = try connect(TLSContext(key, role: .client), TLSContext(key, role: .server))
        try exchange(&session)
    }

    @Test func certificatesOfOneAuthority() throws {
        let credentials = try TestCredentials()
        try credentials.authority()
        try credentials.certificate("source", names: "DNS:source.test,IP:192.0.2.7")
        try credentials.certificate("destination", names: "DNS:destination.test")
        let (client, server) = (
            try TLSContext(certificates(credentials, "destination"), role: .client),
            try TLSContext(certificates(credentials, "source"), role: .server)
        )
        for name in [nil, "source.test", "192.0.2.7"] {
            var session = try connect(client, server, peerName: name, clientName: name == nil ? nil : "destination.test")
            try exchange(&session)
        }
        for name in ["other.test", "192.0.2.8"] {
            #expect(isDistrust { () throws(TLSError) in _ = try connect(client, server, peerName: name) })
            #expect(isDistrust { () throws(TLSError) in _ = try connect(client, server, clientName: name) })
        }
    }

    private func isDistrust(_ body: () throws(TLSError) -> Void) -> Bool {
        do throws(TLSError) {
            try body()
            return false
        } catch {
            #expect(!error.description.contains("\n"))
            if case .notTrusted = error { return true }
            Issue.record("\(error)")
            return false
        }
    }

    @Test func anotherKey() throws {
        let credentials = try TestCredentials()
        let (one, other) = (
            TLSCredentials.preSharedKey(path: try credentials.key("one")), TLSCredentials.preSharedKey(path: try credentials.key("other"))
        )
        #expect(isDistrust { () throws(TLSError) in _ = try connect(TLSContext(one, role: .client), TLSContext(other, role: .server)) })
    }

    /// Not a certificate in place of the key, nor the key in place of a certificate.
    @Test func anotherKindOfCredentials() throws {
        let credentials = try TestCredentials()
        try credentials.authority()
        try credentials.certificate("both")
        let (key, certificate) = (TLSCredentials.preSharedKey(path: try credentials.key()), certificates(credentials, "both"))
        #expect(
            isDistrust { () throws(TLSError) in _ = try connect(TLSContext(key, role: .client), TLSContext(certificate, role: .server)) })
        #expect(
            isDistrust { () throws(TLSError) in _ = try connect(TLSContext(certificate, role: .client), TLSContext(key, role: .server)) })
    }

    @Test func anotherAuthority() throws {
        let credentials = try TestCredentials()
        for name in ["authority", "stranger"] { try credentials.authority(name) }
        try credentials.certificate("good")
        try credentials.certificate("bad", by: "stranger")
        let (good, bad) = (certificates(credentials, "good"), certificates(credentials, "bad"))
        #expect(isDistrust { () throws(TLSError) in _ = try connect(TLSContext(good, role: .client), TLSContext(bad, role: .server)) })
        // The client is through before the server has looked: the server's refusal is what counts.
        #expect(
            isDistrust { () throws(TLSError) in
                _ = try connect(
                    TLSContext(certificates(credentials, "bad", authority: "authority"), role: .client), TLSContext(good, role: .server))
            })
    }

    @Test func anExpiredCertificate() throws {
        let credentials = try TestCredentials()
        try credentials.authority()
        try credentials.certificate("good")
        try credentials.certificate("old", days: -1)
        let (good, old) = (certificates(credentials, "good"), certificates(credentials, "old"))
        do throws(TLSError) {
            _ = try connect(TLSContext(good, role: .client), TLSContext(old, role: .server))
            Issue.record("an expired certificate was believed")
        } catch {
            #expect(error == .notTrusted(peer: "the server", reason: "certificate has expired"))
        }
    }

    /// What is no TLS is told apart from wrong credentials.
    @Test(arguments: [TLSContext.Role.client, .server]) func noTLS(_ role: TLSContext.Role) throws {
        let credentials = try TestCredentials()
        let context = try TLSContext(.preSharedKey(path: try credentials.key()), role: role)
        let pair = try Pair()
        var connection = try TLSConnection(context, socket: pair.client, peer: "somebody", peerName: nil)
        _ = try? connection.handshake()
        let words = Array("PGFY\u{1}\u{0}\u{0}\u{0} this is a frame of a plain lane".utf8)
        #expect(send(pair.server, words, words.count, Int32(MSG_NOSIGNAL)) == words.count)
        #expect(throws: TLSError.notTLS(peer: "somebody")) { while try connection.handshake() != .moved(0) {} }
    }

    /// An end that the peer has said is told from a stream that somebody has cut.
    @Test func endsAndCuts() throws {
        let credentials = try TestCredentials()
        let key = TLSCredentials.preSharedKey(path: try credentials.key())
        let (client, server) = (try TLSContext(key, role: .client), try TLSContext(key, role: .server))
        var ended = try connect(client, server)
        ended.client.sayEnd()
        #expect(try read(&ended.server).1 == .ended)
        var cut = try connect(client, server)
        #expect(try write(&cut.client, [1, 2, 3]) == .moved(3))
        shutdown(cut.pair.client, Int32(SHUT_WR))
        #expect(try read(&cut.server).0 == [1, 2, 3])
        #expect(throws: TLSError.lost(peer: "the client")) { try read(&cut.server) }
    }

    /// A bit that is turned on the way ends the stream.
    @Test func aDamagedRecord() throws {
        let credentials = try TestCredentials()
        let key = TLSCredentials.preSharedKey(path: try credentials.key())
        var session = try connect(TLSContext(key, role: .client), TLSContext(key, role: .server))
        #expect(try write(&session.client, Array(repeating: 9, count: 100)) == .moved(100))
        var record = [UInt8](repeating: 0, count: 1024)
        let count = recv(session.pair.server, &record, record.count, 0)
        record[50] ^= 1
        #expect(send(session.pair.client, record, count, 0) == count)
        let error = #expect(throws: TLSError.self) { try read(&session.server) }
        guard case .damaged(peer: "the client", _)? = error else {
            Issue.record("\(String(describing: error))")
            return
        }
    }
}
