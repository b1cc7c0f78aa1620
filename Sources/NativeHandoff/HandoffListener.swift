import CShims
import Glibc

/// The daemon's hand-off socket: a VMM connects and hands its memory over (Documentation/Handoff.md).
///
/// Only its owner, by default this user, may connect (mode 0600), and root. The socket's path is removed at the end of this value's life.
public struct HandoffListener: ~Copyable, Sendable {
    public let path: String
    private let socket: HandoffSocket
    private let owner: UInt32?
    private let device: UInt64
    private let inode: UInt64

    /// Listens at `path`. A socket left there by a process that died is replaced; one that is served is not.
    ///
    /// `owner`: the user the VMM runs as, when that is another; giving a socket away needs CAP_CHOWN.
    public init(path: String, owner: UInt32? = nil) throws(HandoffError) {
        let socket = try HandoffSocket.make()
        try Self.removeDeadSocket(path)
        // SAFETY: the path is terminated and lives for the call.
        let answer = unsafe pageferry_unix_bind(socket.rawValue, path)
        guard answer == 0 else {
            throw -answer == EADDRINUSE ? .alreadyListening(path: path) : .systemCall(call: "binding '\(path)'", code: -answer)
        }
        // Nobody can connect before listen(2): there is no moment with wider permissions.
        var status = stat()
        // SAFETY: the path is terminated, and the kernel fills this variable.
        guard unsafe chmod(path, 0o600) == 0, unsafe chown(path, owner ?? .max, .max) == 0, unsafe stat(path, &status) == 0,
            listen(socket.rawValue, 8) == 0
        else {
            let code = errno
            // SAFETY: the path is terminated and lives for the call.
            unsafe unlink(path)
            throw .systemCall(call: "listening on '\(path)'", code: code)
        }
        self.path = path
        self.socket = socket
        self.owner = owner
        device = UInt64(status.st_dev)
        inode = UInt64(status.st_ino)
    }

    deinit {
        // Another process may have put its own socket in this place.
        var status = stat()
        // SAFETY: the path is terminated, and the kernel fills this variable.
        if unsafe lstat(path, &status) == 0, UInt64(status.st_dev) == device, UInt64(status.st_ino) == inode {
            unsafe unlink(path)
        }
    }

    /// The listening descriptor, borrowed: to be polled.
    public var rawValue: Int32 { socket.rawValue }

    /// Whether a process of this user may hand memory over: this user, the socket's owner, and root.
    ///
    /// The socket's mode says the same, but not of a descriptor that was passed on, or of a mode that somebody has widened.
    static func permits(user: UInt32, owner: UInt32?, ownUser: UInt32) -> Bool {
        user == 0 || user == ownUser || user == owner
    }

    /// Waits for a VMM to connect. A process of a user who may not is told so and sent away; the wait goes on.
    public borrowing func accept(timeoutNanoseconds: UInt64) throws(HandoffError) -> HandoffConnection {
        let deadline = HandoffDeadline(timeoutNanoseconds: timeoutNanoseconds)
        while true {
            let connection = try HandoffConnection(try acceptAny(deadline))
            if permits(connection.peer) { return connection }
            try? connection.refuse(
                "user \(connection.peer.userIdentifier) may not hand memory over here: run the VMM as the socket's owner")
        }
    }

    /// Whoever connects first, whatever protocol it speaks; `permits` says whether it may.
    package borrowing func acceptAny(_ deadline: HandoffDeadline) throws(HandoffError) -> HandoffSocket {
        while true {
            try socket.wait(for: POLLIN, deadline, "waiting for a VMM to connect to '\(path)'")
            let connected = pageferry_unix_accept(socket.rawValue)
            if connected >= 0 { return HandoffSocket(adopting: connected) }
            // The peer may have gone between poll and accept.
            guard [EAGAIN, EINTR, ECONNABORTED].contains(-connected) else {
                throw .systemCall(call: "accept4(2)", code: -connected)
            }
        }
    }

    package borrowing func permits(_ peer: HandoffPeer) -> Bool {
        Self.permits(user: peer.userIdentifier, owner: owner, ownUser: geteuid())
    }

    private static func removeDeadSocket(_ path: String) throws(HandoffError) {
        var status = stat()
        // SAFETY: the path is terminated, and the kernel fills this variable.
        guard unsafe lstat(path, &status) == 0 else { return }
        guard status.st_mode & S_IFMT == S_IFSOCK else { throw .notASocket(path: path) }
        let probe = try HandoffSocket.make()
        // SAFETY: the path is terminated and lives for the call.
        guard unsafe pageferry_unix_connect(probe.rawValue, path) == -ECONNREFUSED else { throw .alreadyListening(path: path) }
        // SAFETY: as above.
        unsafe unlink(path)
    }
}
