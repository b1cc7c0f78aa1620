import CShims
import Glibc
import Synchronization

/// Stream sockets that somebody else has connected, to become the lanes of a session: the urgent lane's first. Each is used once;
/// those that are not needed are closed, with the last reference at the latest.
public final class AdoptedSockets: Sendable {
    /// How many there were.
    public let count: Int
    /// Whether what is sent there stays on this host: unix sockets, and TCP whose peer has a loopback address.
    public let isLocal: Bool
    private let descriptors: Mutex<[Int32]>

    /// Checks connected stream sockets, and copies them. Those given stay the caller's, who closes them when the session has begun: a
    /// peer sees the end of a connection with its last copy. The copies share their flags and options, which are set as a lane needs
    /// them: O_NONBLOCK and time-outs off.
    ///
    /// - Parameter numbers: 1 to 16, each once. The next byte to be read from each is the session's first.
    public init(copying numbers: [Int32]) throws(StreamError) {
        guard (1...StreamLanes.most).contains(numbers.count) else { throw .badCount(sockets: numbers.count) }
        var isLocal = true
        for (index, number) in numbers.enumerated() {
            guard !numbers[..<index].contains(number) else { throw .notALane(descriptor: number, reason: "it is given twice") }
            isLocal = try Self.check(number) && isLocal
        }
        var copies: [Int32] = []
        for number in numbers {
            // F_DUPFD_CLOEXEC, and the lowest number that is not a standard stream.
            let copy = systemCall { fcntl(number, F_DUPFD_CLOEXEC, 3) }
            guard copy >= 0 else {
                for copy in copies { close(copy) }
                throw .socketFailed(errno: -copy)
            }
            Self.prepare(copy)
            copies.append(copy)
        }
        count = copies.count
        self.isLocal = isLocal
        descriptors = Mutex(copies)
    }

    deinit { closeRest() }

    /// Closes those that are left.
    public func closeRest() {
        for descriptor in takeAll() { close(descriptor) }
    }

    /// The next one, which belongs to the caller from then on; nil when none is left.
    public func takeFirst() -> Int32? {
        descriptors.withLock { $0.isEmpty ? nil : $0.removeFirst() }
    }

    /// All that are left; they belong to the caller from then on.
    public func takeAll() -> [Int32] {
        descriptors.withLock { descriptors in
            defer { descriptors.removeAll() }
            return descriptors
        }
    }

    /// - Returns: whether the peer is on this host.
    private static func check(_ number: Int32) throws(StreamError) -> Bool {
        var kind: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        // SAFETY: an int option is read into an int.
        let status = systemCall { unsafe getsockopt(number, SOL_SOCKET, SO_TYPE, &kind, &length) }
        guard status == 0, kind == Int32(SOCK_STREAM.rawValue) else {
            throw .notALane(descriptor: number, reason: status == -EBADF ? "it is not open" : "it is no stream socket")
        }
        guard let peer = unsafe SocketAddress.read({ unsafe getpeername(number, $0, $1) }) else {
            throw .notALane(descriptor: number, reason: "it is not connected")
        }
        return peer.isLocal
    }

    /// Rings wait for sockets themselves: with O_NONBLOCK their operations would fail in place of that.
    private static func prepare(_ number: Int32) {
        let flags = CShims_descriptorFlags(number)
        if flags & O_NONBLOCK != 0 { _ = CShims_setDescriptorFlags(number, flags & ~O_NONBLOCK) }
        var never = timeval()
        for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
            // SAFETY: these options take this structure.
            _ = systemCall { unsafe setsockopt(number, SOL_SOCKET, option, &never, socklen_t(MemoryLayout<timeval>.size)) }
        }
        SocketOption.set(number, level: SOL_SOCKET, SO_RCVLOWAT, 1)
    }
}
