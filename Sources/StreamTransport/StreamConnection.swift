import CShims
import Glibc
import PageWire

/// One connected stream during set-up: handshake frames go through it, blocking with a time limit, before it becomes
/// a lane of a `StreamTransport`. Owns its descriptor.
public struct StreamConnection: ~Copyable {
    private var descriptor: Descriptor
    var ring: SetUpRing
    /// The other end, for logs: "192.0.2.7:41000", or "unix:/run/x (process 812, user 0)".
    public let peerDescription: String

    /// The process and user at the other end of a unix socket (SO_PEERCRED).
    public struct PeerCredentials: Sendable, Hashable {
        public let process: Int32
        public let user: UInt32
        public let group: UInt32

        /// Whether a process of this user has any business here: this process's user, and root. The socket's mode says the same, but
        /// not of a descriptor that was passed on, or of a mode that somebody has widened.
        public var isTrusted: Bool { Self.trusts(user: user, ownUser: geteuid()) }

        static func trusts(user: UInt32, ownUser: UInt32) -> Bool { user == 0 || user == ownUser }
    }

    /// Takes over a connected stream socket; it is closed also when this throws.
    ///
    /// - Parameter path: the unix socket's path, for the peer's description only.
    public init(adopting number: Int32, path: String? = nil, options: StreamOptions = StreamOptions()) throws(StreamError) {
        let descriptor = Descriptor(owning: number)
        ring = try SetUpRing()
        SocketOption.apply(options, to: number)
        peerDescription = Self.describePeer(number, path: path)
        self.descriptor = descriptor
    }

    private init(_ descriptor: consuming Descriptor, ring: consuming SetUpRing, peerDescription: String) {
        self.descriptor = descriptor
        self.ring = ring
        self.peerDescription = peerDescription
    }

    /// Connects to the first of the address's forms that answers; all of them share the time limit.
    public static func connect(
        to address: StreamAddress, timeoutNanoseconds: UInt64, options: StreamOptions = StreamOptions()
    ) throws(StreamError) -> StreamConnection {
        let deadline = Deadline(after: timeoutNanoseconds)
        var ring = try SetUpRing()
        var failure: StreamError = .timedOut(peer: address.description)
        for form in try SocketAddress.resolve(address, listening: false) {
            let number = systemCall { socket(form.family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0) }
            guard number >= 0 else {
                failure = .socketFailed(errno: -number)
                continue
            }
            let descriptor = Descriptor(owning: number)
            SocketOption.apply(options, to: number)
            let result = try ring.connect(number, to: form, deadline: deadline)
            if result == 0 {
                return StreamConnection(descriptor, ring: ring, peerDescription: describePeer(number, path: address.path))
            }
            failure = result == -ETIME ? .timedOut(peer: address.description) : .cannotConnect(address: address.description, errno: -result)
        }
        throw failure
    }

    /// The connected socket, for `getsockopt` and the like; stays owned here.
    public var rawDescriptor: Int32 { descriptor.raw }

    /// Gives the descriptor up to the caller, who closes it.
    public consuming func release() -> Int32 { descriptor.release() }

    /// Who is at the other end of a unix socket; nil for TCP.
    public var peerCredentials: PeerCredentials? { Self.credentials(descriptor.raw) }

    /// Who is at the other end of a connected unix socket; nil for other sockets.
    public static func credentials(_ number: Int32) -> PeerCredentials? {
        guard !SocketOption.isTCP(number) else { return nil }
        var peer = CShimsSocketPeer()
        // SAFETY: the shim fills the structure it is given.
        guard systemCall({ unsafe CShimsSocket_peer(number, &peer) }) == 0 else { return nil }
        return PeerCredentials(process: peer.process, user: peer.user, group: peer.group)
    }

    private static func describePeer(_ number: Int32, path: String?) -> String {
        if let credentials = credentials(number) {
            return "unix:\(path ?? "") (process \(credentials.process), user \(credentials.user))"
        }
        let peer = unsafe SocketAddress.read { unsafe getpeername(number, $0, $1) }
        return peer?.numeric?.description ?? "an unknown peer"
    }
}

extension StreamAddress {
    /// The path of a unix address.
    var path: String? {
        if case .unix(let path) = self { path } else { nil }
    }
}
