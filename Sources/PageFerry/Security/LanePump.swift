import CShims
import Glibc
import PageCore
import SecureStream

/// Carries one lane between its TLS socket and a unix socket that the transport uses as it would the connection itself, on a thread
/// of its own. What either side does the other sees: bytes, the end of a direction, the loss of the link.
struct LanePump: ~Copyable {
    /// Of decrypted bytes, either way: several of TLS's records.
    private static let bufferBytes = 256 << 10
    /// What the kernel may hold unsent ahead of the next record: enough to keep a link full, little to wait behind.
    private static let unsentBytes: Int32 = 256 << 10
    /// How long the peer may take, once the transport has closed, for what is left to send and for its own end.
    private static let drainNanoseconds: UInt64 = 5_000_000_000

    private var connection: TLSConnection
    private let socket: Int32
    private let inner: Int32
    private let peer: String
    private var inbound = PumpBuffer(bytes: LanePump.bufferBytes)
    private var outbound = PumpBuffer(bytes: LanePump.bufferBytes)
    /// What to wait for when nothing moves.
    private var socketEvents = Int32(0)
    private var innerEvents = Int32(0)
    /// The transport sends nothing more, and the peer has been told.
    private var innerEnded = false
    private var saidEnd = false
    private var peerEnded = false
    /// The transport has closed its end; what it has sent before may still be there.
    private var innerClosed = false
    /// What comes in goes nowhere.
    private var innerGone = false
    private var drainDeadlineNanoseconds = UInt64.max

    /// Shakes hands, and starts to carry.
    ///
    /// - Parameter socket: the connection; the pump's from here on, also when this throws.
    /// - Returns: the transport's end of a unix socket pair; closing it ends the connection.
    static func start(
        _ context: TLSContext, socket: Int32, peer: String, peerName: String?, deadlineNanoseconds: UInt64
    ) throws(TLSError) -> Int32 {
        var pair: (Int32, Int32) = (-1, -1)
        // SAFETY: the tuple of two descriptors has the layout of the array that the call fills.
        let status = unsafe withUnsafeMutableBytes(of: &pair) {
            unsafe socketpair(
                AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, $0.baseAddress!.assumingMemoryBound(to: Int32.self))
        }
        guard status == 0 else {
            close(socket)
            throw .unavailable(reason: "the process has no descriptor left; raise `ulimit -n`")
        }
        let (outer, inner) = pair
        _ = fcntl(socket, F_SETFL, fcntl(socket, F_GETFL) | O_NONBLOCK)
        let outcome = Mailbox<TLSError?>()
        _ = DedicatedThread(name: "tls") {
            DedicatedThread.preferCurrent()
            // OpenSSL writes with write(2), which signals a peer that is gone.
            var signals = sigset_t()
            // SAFETY: the local set is filled and read for the calls alone.
            unsafe sigemptyset(&signals)
            unsafe sigaddset(&signals, SIGPIPE)
            unsafe pthread_sigmask(SIG_BLOCK, &signals, nil)
            defer {
                close(socket)
                close(inner)
            }
            do throws(TLSError) {
                var pump = LanePump(
                    connection: try TLSConnection(context, socket: socket, peer: peer, peerName: peerName), socket: socket, inner: inner,
                    peer: peer)
                try pump.shakeHands(isServer: context.role == .server, until: deadlineNanoseconds)
                outcome.post(nil)
                pump.run()
            } catch {
                outcome.post(error)
            }
        }
        if case .some(.some(let error)) = outcome.next() {
            close(outer)
            throw error
        }
        return outer
    }

    private init(connection: consuming TLSConnection, socket: Int32, inner: Int32, peer: String) {
        self.connection = connection
        self.socket = socket
        self.inner = inner
        self.peer = peer
        var unsent = Self.unsentBytes
        // SAFETY: an int option is set from an int; it fails harmlessly on what is not TCP.
        _ = unsafe setsockopt(socket, Int32(IPPROTO_TCP), TCP_NOTSENT_LOWAT, &unsent, socklen_t(MemoryLayout<Int32>.size))
    }

    // MARK: Handshake

    /// In TLS 1.3 the client is through before the server has looked at its certificate: the server's first byte says that it has.
    private mutating func shakeHands(isServer: Bool, until deadlineNanoseconds: UInt64) throws(TLSError) {
        _ = try repeatedly(until: deadlineNanoseconds) { (connection) throws(TLSError) in try connection.handshake() }
        let outcome = try repeatedly(until: deadlineNanoseconds) { (connection) throws(TLSError) in
            var greeting: UInt8 = 0
            // SAFETY: one local byte, for the duration of the call.
            return try unsafe withUnsafeMutableBytes(of: &greeting) { (byte) throws(TLSError) in
                if isServer { return try unsafe connection.write(UnsafeRawBufferPointer(byte)) }
                return try unsafe connection.read(into: byte)
            }
        }
        if outcome == .ended { throw .lost(peer: peer) }
    }

    private mutating func repeatedly(
        until deadlineNanoseconds: UInt64, _ step: (inout TLSConnection) throws(TLSError) -> TLSConnection.Outcome
    ) throws(TLSError) -> TLSConnection.Outcome {
        while true {
            let outcome = try step(&connection)
            switch outcome {
            case .wantsRead: socketEvents = Int32(POLLIN)
            case .wantsWrite: socketEvents = Int32(POLLOUT)
            case .moved, .ended: return outcome
            }
            let now = MonotonicClock.nowNanoseconds()
            guard now < deadlineNanoseconds else { throw .timedOut(peer: peer) }
            var entry = pollfd(fd: socket, events: Int16(truncatingIfNeeded: socketEvents), revents: 0)
            // SAFETY: one local entry, for the duration of the call.
            _ = unsafe poll(&entry, 1, Int32(clamping: (deadlineNanoseconds - now) / 1_000_000 + 1))
        }
    }

    // MARK: Carrying

    private mutating func run() {
        do throws(TLSError) {
            while !isOver {
                socketEvents = 0
                innerEvents = 0
                let hasSent = try moveOut()
                let hasReceived = try moveIn()
                if !hasSent, !hasReceived, !isOver { wait() }
            }
        } catch {
            // The transport sees the end of its socket in the middle of things, which is a lost link.
        }
    }

    private var isOver: Bool {
        guard innerEnded || innerClosed else { return false }
        return saidEnd && peerEnded && (inbound.isEmpty || innerGone) || MonotonicClock.nowNanoseconds() > drainDeadlineNanoseconds
    }

    /// From the transport to the peer.
    ///
    /// - Returns: whether anything moved.
    private mutating func moveOut() throws(TLSError) -> Bool {
        var hasMoved = takeFromTransport()
        while !outbound.isEmpty {
            // SAFETY: what is there is read before the buffer changes.
            switch try unsafe connection.write(outbound.content) {
            case .moved(let count):
                outbound.drained(count)
                hasMoved = true
                continue
            case .wantsRead: socketEvents |= Int32(POLLIN)
            case .wantsWrite: socketEvents |= Int32(POLLOUT)
            case .ended: throw .lost(peer: peer)
            }
            return hasMoved
        }
        if innerEnded, !saidEnd {
            connection.sayEnd()
            shutdown(socket, Int32(SHUT_WR))
            saidEnd = true
            hasMoved = true
        }
        return hasMoved
    }

    private mutating func takeFromTransport() -> Bool {
        guard outbound.isEmpty, !innerEnded else { return false }
        // SAFETY: the kernel writes within the room.
        let room = unsafe outbound.room
        let count = unsafe recv(inner, room.baseAddress, room.count, Int32(MSG_DONTWAIT))
        if count > 0 {
            outbound.filled(count)
            return true
        }
        if count < 0, errno == EAGAIN || errno == EINTR {
            innerEvents |= Int32(POLLIN)
            return false
        }
        innerEnded = true
        beginDrain()
        return true
    }

    /// From the peer to the transport.
    private mutating func moveIn() throws(TLSError) -> Bool {
        var hasMoved = false
        if inbound.isEmpty, !peerEnded { hasMoved = try takeFromPeer() }
        guard !inbound.isEmpty else {
            if peerEnded, !innerGone {
                shutdown(inner, Int32(SHUT_WR))
                innerGone = true
            }
            return hasMoved
        }
        if innerGone {
            inbound.removeAll()
            return true
        }
        // SAFETY: the kernel reads what is there before the buffer changes.
        let content = unsafe inbound.content
        let count = unsafe send(inner, content.baseAddress, content.count, Int32(MSG_DONTWAIT) | Int32(MSG_NOSIGNAL))
        if count > 0 {
            inbound.drained(count)
            return true
        }
        if count < 0, errno == EAGAIN || errno == EINTR {
            innerEvents |= Int32(POLLOUT)
        } else {
            innerGone = true
            hasMoved = true
        }
        return hasMoved
    }

    /// Takes what has come, until there is no more or no room.
    private mutating func takeFromPeer() throws(TLSError) -> Bool {
        var hasMoved = false
        while inbound.hasRoom {
            // SAFETY: the bytes are written within the room.
            switch try unsafe connection.read(into: inbound.room) {
            case .moved(let count):
                inbound.filled(count)
                hasMoved = true
                continue
            case .wantsRead: socketEvents |= Int32(POLLIN)
            case .wantsWrite: socketEvents |= Int32(POLLOUT)
            case .ended:
                peerEnded = true
                hasMoved = true
            }
            break
        }
        return hasMoved
    }

    private mutating func beginDrain() {
        drainDeadlineNanoseconds = min(drainDeadlineNanoseconds, MonotonicClock.nowNanoseconds() + Self.drainNanoseconds)
    }

    private mutating func wait() {
        var entries = [
            pollfd(fd: socket, events: Int16(truncatingIfNeeded: socketEvents), revents: 0),
            // Its closing is told whatever is waited for, once: from then on it has nothing to wait for.
            pollfd(
                fd: innerClosed || innerEnded && innerEvents == 0 ? -1 : inner, events: Int16(truncatingIfNeeded: innerEvents), revents: 0),
        ]
        let now = MonotonicClock.nowNanoseconds()
        let timeout: Int32 = innerEnded || innerClosed ? Int32(clamping: (max(drainDeadlineNanoseconds, now) - now) / 1_000_000 + 1) : -1
        // SAFETY: local entries, as many as said, for the duration of the call.
        _ = unsafe poll(&entries, 2, timeout)
        if entries[1].revents & Int16(POLLHUP) != 0 {
            innerClosed = true
            beginDrain()
        }
    }
}
