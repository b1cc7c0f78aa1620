import Glibc

/// Two connected sockets. One end has been given everything a peer will ever say, and nothing more; the other end is handed to
/// the code under test. What that says is thrown away.
struct PeerSocket: ~Copyable {
    private let peer: Int32
    /// The end of the code under test, which closes it.
    let ours: Int32

    /// The most a peer says: it fits in the socket, so that nobody waits.
    static let mostBytes = 32 << 10

    init(saying bytes: [UInt8]) {
        var pair: [Int32] = [-1, -1]
        guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0, &pair) == 0 else {
            fatalError("socketpair failed: \(errno)")
        }
        ours = pair[0]
        peer = pair[1]
        let said = bytes.prefix(Self.mostBytes).withUnsafeBytes {
            send(peer, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL) | Int32(MSG_DONTWAIT))
        }
        require(said == min(bytes.count, Self.mostBytes), "the socket takes a whole conversation")
        shutdown(peer, Int32(SHUT_WR))
    }

    deinit { close(peer) }
}
