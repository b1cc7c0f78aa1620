import CShims
import Glibc

/// How a connection watches its link. Sources: tcp(7), socket(7).
public struct StreamOptions: Sendable, Hashable {
    /// A link whose peer acknowledges nothing, or takes nothing, for so long counts as lost (TCP_USER_TIMEOUT); 0 leaves
    /// it to the kernel (minutes).
    public var unacknowledgedTimeoutMilliseconds: UInt32
    /// An idle link is probed after so long (TCP_KEEPIDLE).
    public var keepaliveIdleSeconds: UInt32
    /// The time between two probes (TCP_KEEPINTVL); five unanswered ones end the link.
    public var keepaliveIntervalSeconds: UInt32

    public init(
        unacknowledgedTimeoutMilliseconds: UInt32 = 10_000, keepaliveIdleSeconds: UInt32 = 5, keepaliveIntervalSeconds: UInt32 = 1
    ) {
        self.unacknowledgedTimeoutMilliseconds = unacknowledgedTimeoutMilliseconds
        self.keepaliveIdleSeconds = keepaliveIdleSeconds
        self.keepaliveIntervalSeconds = keepaliveIntervalSeconds
    }
}

enum SocketOption {
    /// - Returns: 0, or the negated error number.
    @discardableResult
    static func set(_ descriptor: Int32, level: Int32, _ name: Int32, _ value: Int32) -> Int32 {
        var value = value
        // SAFETY: an int option is set from an int.
        return systemCall { unsafe setsockopt(descriptor, level, name, &value, socklen_t(MemoryLayout<Int32>.size)) }
    }

    /// Options of every stream; those of TCP fail harmlessly on a unix socket, where they mean nothing.
    static func apply(_ options: StreamOptions, to descriptor: Int32) {
        let tcp = Int32(IPPROTO_TCP)
        guard set(descriptor, level: tcp, TCP_NODELAY, 1) == 0 else { return }
        set(descriptor, level: SOL_SOCKET, SO_KEEPALIVE, 1)
        set(descriptor, level: tcp, TCP_KEEPIDLE, Int32(clamping: max(1, options.keepaliveIdleSeconds)))
        set(descriptor, level: tcp, TCP_KEEPINTVL, Int32(clamping: max(1, options.keepaliveIntervalSeconds)))
        set(descriptor, level: tcp, TCP_KEEPCNT, 5)
        set(descriptor, level: tcp, TCP_USER_TIMEOUT, Int32(clamping: options.unacknowledgedTimeoutMilliseconds))
    }

    /// Keeps what lies unsent in the kernel ahead of the next urgent frame below `bytes`.
    static func limitUnsent(_ descriptor: Int32, bytes: Int) {
        set(descriptor, level: Int32(IPPROTO_TCP), TCP_NOTSENT_LOWAT, Int32(clamping: bytes))
    }

    /// Makes `close` drop what is unsent and reset the connection at once.
    static func dropOnClose(_ descriptor: Int32) {
        var value = linger(l_onoff: 1, l_linger: 0)
        // SAFETY: the option takes this structure.
        _ = systemCall { unsafe setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &value, socklen_t(MemoryLayout<linger>.size)) }
    }

    /// Whether the descriptor is a TCP socket.
    static func isTCP(_ descriptor: Int32) -> Bool {
        var family: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        // SAFETY: an int option is read into an int.
        let status = systemCall { unsafe getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &family, &length) }
        return status == 0 && (family == AF_INET || family == AF_INET6)
    }
}
