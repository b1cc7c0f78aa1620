import CShims
import Glibc
import PageWire
import Testing

@testable import StreamTransport

/// Addresses, listeners, connections, and frames before the data path.
extension TransportTests {
    @Test func addressesAreReadAsPeopleWriteThem() throws {
        #expect(try StreamAddress(parsing: "host.example:7700") == .tcp(host: "host.example", port: 7700))
        #expect(try StreamAddress(parsing: "[::1]:0") == .tcp(host: "::1", port: 0))
        #expect(try StreamAddress(parsing: "unix:/run/x.sock") == .unix(path: "/run/x.sock"))
        for address in ["192.0.2.1:1", "[2001:db8::1]:65535", "unix:relative/path", "[unix]:7"] {
            #expect(try StreamAddress(parsing: address).description == address)
        }
        let wrong = [
            ("", "the port is missing"), ("host", "the port is missing"), ("host:", "the port is missing"), ("host:65536", "not a number"),
            ("host:-1", "not a number"), ("host:+1", "not a number"), (":7700", "the host is missing"), ("::1:7700", "brackets"),
            ("[::1:7700", "brackets"), ("[0]]:70", "brackets"), ("unix:", "the path is missing"), ("[]:1", "the host is missing"),
            ("a\0b:1", "zero byte"),
        ]
        for (text, reason) in wrong {
            let error = #expect(throws: StreamError.self, "\(text)") { try StreamAddress(parsing: text) }
            #expect(error?.description.contains(reason) == true, "\(text): \(String(describing: error))")
        }
        let long = "unix:/" + String(repeating: "x", count: 107)
        #expect(throws: StreamError.pathTooLong(path: String(long.dropFirst(5)))) { try StreamAddress(parsing: long) }
    }

    private func failure(_ body: () throws(StreamError) -> Void) -> StreamError? {
        do { try body() } catch { return error }
        return nil
    }

    @Test func refusedConnectionsSayHowToMend() throws {
        // A port that was just free: bound and given back.
        var port: UInt16 = 0
        do {
            let listener = try StreamListener(on: .tcp(host: "127.0.0.1", port: 0))
            guard case .tcp(_, let number) = listener.address else { return }
            port = number
        }
        let address = StreamAddress.tcp(host: "127.0.0.1", port: port)
        let refused = failure { () throws(StreamError) in _ = try StreamConnection.connect(to: address, timeoutNanoseconds: seconds(5)) }
        #expect(refused == .cannotConnect(address: "127.0.0.1:\(port)", errno: ECONNREFUSED))
        #expect(
            refused?.description
                == "cannot connect to 127.0.0.1:\(port): Connection refused; check that the peer is running, listens there, and that no firewall is between"
        )
        let absent = failure { () throws(StreamError) in
            _ = try StreamConnection.connect(to: .unix(path: temporaryPath("absent")), timeoutNanoseconds: seconds(5))
        }
        guard case .cannotConnect(_, ENOENT) = absent else { Issue.record("\(String(describing: absent))"); return }
        let unknown = failure { () throws(StreamError) in
            _ = try StreamConnection.connect(to: .tcp(host: "no such host", port: 1), timeoutNanoseconds: seconds(5))
        }
        guard case .cannotResolve(host: "no such host", _) = unknown else { Issue.record("\(String(describing: unknown))"); return }
    }

    @Test func connectingEndsWithItsTime() throws {
        // A unix listener whose backlog is full leaves a connector waiting, on every machine.
        let path = temporaryPath("full")
        let listener = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(listener); unlink(path) }
        var form = sockaddr_un()
        let length = path.withCString { CShimsSocket_unixAddress(&form, $0, path.utf8.count) }
        let bound = withUnsafePointer(to: &form) { $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(listener, $0, length) } }
        try #require(bound == 0 && listen(listener, 0) == 0)
        var waiting: [Int32] = []
        defer { waiting.forEach { close($0) } }
        var outcome: StreamError?
        for _ in 0..<8 where outcome == nil {
            do { waiting.append(try StreamConnection.connect(to: .unix(path: path), timeoutNanoseconds: 50_000_000).release()) } catch {
                outcome = error
            }
        }
        #expect(outcome == .timedOut(peer: "unix:\(path)"))
        #expect(outcome?.description.contains("did not answer in time") == true)
    }

    @Test func takenAddressesAreRefused() throws {
        let first = try StreamListener(on: .tcp(host: "127.0.0.1", port: 0))
        let second = failure { () throws(StreamError) in _ = try StreamListener(on: first.address) }
        #expect(second == .addressInUse(address: first.address.description))
        #expect(second?.description.contains("is in use by another program") == true)
        guard case .tcp(let host, let port) = first.address else { Issue.record("no address"); return }
        #expect(host == "127.0.0.1" && port != 0)
        let foreign = failure { () throws(StreamError) in _ = try StreamListener(on: .tcp(host: "192.0.2.1", port: 0)) }
        #expect(foreign == .cannotListen(address: "192.0.2.1:0", errno: EADDRNOTAVAIL))
    }

    @Test func unixPathsAreRefusedReplacedAndRemoved() throws {
        let path = temporaryPath("listen")
        let address = StreamAddress.unix(path: path)
        do {
            let living = try StreamListener(on: address)
            #expect(failure { () throws(StreamError) in _ = try StreamListener(on: address) } == .addressInUse(address: "unix:\(path)"))
            var status = stat()
            #expect(lstat(path, &status) == 0 && status.st_mode & 0o777 == 0o600)
            #expect(living.address == address)
        }
        #expect(access(path, F_OK) == -1, "the listener removes its file")
        // A dead socket: bound by someone who is gone.
        let dead = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0)
        var form = sockaddr_un()
        let length = path.withCString { CShimsSocket_unixAddress(&form, $0, path.utf8.count) }
        let bound = withUnsafePointer(to: &form) { $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { bind(dead, $0, length) } }
        close(dead)
        #expect(bound == 0 && access(path, F_OK) == 0)
        do {
            var replaced = try StreamListener(on: address)
            let client = try StreamConnection.connect(to: address, timeoutNanoseconds: seconds(5))
            let credentials = try accepted(&replaced).peerCredentials
            #expect(credentials == .init(process: getpid(), user: getuid(), group: getgid()))
            #expect(client.peerDescription == "unix:\(path) (process \(getpid()), user \(getuid()))")
        }
        let file = open(path, O_CREAT | O_WRONLY, 0o600)
        close(file)
        defer { unlink(path) }
        #expect(failure { () throws(StreamError) in _ = try StreamListener(on: address) } == .notASocket(path: path))
    }

    /// Another user's process is sent away, also when somebody has widened the socket's mode.
    @Test(.enabled(if: getuid() == 0, "only root can be another user for a moment")) func strangersAreSentAway() throws {
        #expect(StreamConnection.PeerCredentials.trusts(user: 0, ownUser: 1000))
        #expect(StreamConnection.PeerCredentials.trusts(user: 1000, ownUser: 1000))
        #expect(!StreamConnection.PeerCredentials.trusts(user: 1001, ownUser: 1000))
        #expect(!StreamConnection.PeerCredentials.trusts(user: 1000, ownUser: 0))
        let path = temporaryPath("stranger")
        var listener = try StreamListener(on: .unix(path: path))
        chmod(path, 0o666)
        // It connects, and waits for an answer to the first words of its own protocol until its time is over.
        let status = system(
            "timeout 1 setpriv --reuid=65534 --regid=65534 --clear-groups openssl s_client -unix \(path) </dev/null >/dev/null 2>&1")
        #expect(status >> 8 == 124, "it was connected, and waited")
        let nobody = try listener.accept(timeoutNanoseconds: 20_000_000)
        let isNobody = nobody == nil
        #expect(isNobody)
        let client = try StreamConnection.connect(to: .unix(path: path), timeoutNanoseconds: seconds(5))
        #expect(try accepted(&listener).peerCredentials?.user == getuid())
        _ = client.rawDescriptor
    }

    @Test func acceptEndsWithItsTimeAndCanBeWoken() throws {
        var listener = try StreamListener(on: .tcp(host: "127.0.0.1", port: 0))
        let nobody = try listener.accept(timeoutNanoseconds: 2_000_000)
        let nobodyCame = nobody == nil
        #expect(nobodyCame)
        let event = eventfd(0, Int32(EFD_NONBLOCK | EFD_CLOEXEC))
        defer { close(event) }
        let waker = try Thread { eventfd_write(event, 1) }
        let woken = try listener.accept(timeoutNanoseconds: seconds(60), wake: event)
        waker.join()
        let wasWoken = woken == nil
        #expect(wasWoken)
        // The listener still works after both.
        var value: eventfd_t = 0
        eventfd_read(event, &value)
        let client = try StreamConnection.connect(to: listener.address, timeoutNanoseconds: seconds(5))
        let peer = try accepted(&listener, wake: event).peerDescription
        #expect(peer.hasPrefix("127.0.0.1:"))
        #expect(client.peerDescription == listener.address.description)
    }

    @Test(arguments: links)
    func handshakeFramesGoBothWays(link: TransportFactory.Link) throws {
        let (one, other) = try connectedDescriptors(link)
        var left = try StreamConnection(adopting: one)
        var right = try StreamConnection(adopting: other)
        let payload = Arena(5000)
        payload.fill(seed: 2)
        let into = Arena(5000)
        let header = FrameHeader(.hello, payloadBytes: 5000, argument: 9)
        try left.sendFrame(header, payload: payload.slice(0, 5000), timeoutNanoseconds: seconds(5))
        try left.sendFrame(FrameHeader(.accept), timeoutNanoseconds: seconds(5))
        #expect(try right.receiveFrame(into: into.bytes, timeoutNanoseconds: seconds(5)) == header)
        #expect(memcmp(into.bytes.baseAddress!, payload.bytes.baseAddress!, 5000) == 0)
        #expect(try right.receiveFrame(into: into.bytes, timeoutNanoseconds: seconds(5)) == FrameHeader(.accept))
        let buffer = UnsafeMutableRawBufferPointer(rebasing: into.bytes[..<100])
        let late = failure { () throws(StreamError) in _ = try right.receiveFrame(into: buffer, timeoutNanoseconds: 2_000_000) }
        #expect(late == .timedOut(peer: right.peerDescription))
        try left.sendFrame(header, payload: payload.slice(0, 5000), timeoutNanoseconds: seconds(5))
        let large = failure { () throws(StreamError) in _ = try right.receiveFrame(into: buffer, timeoutNanoseconds: seconds(5)) }
        #expect(large == .payloadTooLarge(bytes: 5000, capacityBytes: 100))
    }

    @Test(arguments: links)
    func handshakesSeeEveryEnd(link: TransportFactory.Link) throws {
        for (sent, expected) in [(0, "closed the connection; see"), (10, "in the middle of a frame"), (40, "in the middle of a frame")] {
            let (one, other) = try connectedDescriptors(link)
            var left = try StreamConnection(adopting: one)
            let bytes = frameBytes(FrameHeader(.hello, payloadBytes: 20))
            #expect(send(other, bytes, sent, Int32(MSG_NOSIGNAL)) == sent)
            close(other)
            let into = Arena(64)
            let error = failure { () throws(StreamError) in _ = try left.receiveFrame(into: into.bytes, timeoutNanoseconds: seconds(5)) }
            #expect(error?.description.contains(expected) == true, "\(String(describing: error))")
        }
        let (one, other) = try connectedDescriptors(link)
        var left = try StreamConnection(adopting: one)
        let noise = [UInt8](repeating: 0x47, count: 64)
        #expect(send(other, noise, 64, Int32(MSG_NOSIGNAL)) == 64)
        let into = Arena(64)
        #expect(
            failure { () throws(StreamError) in _ = try left.receiveFrame(into: into.bytes, timeoutNanoseconds: seconds(5)) }
                == .refused(.unknownKind(0x47)))
        close(other)
    }
}
