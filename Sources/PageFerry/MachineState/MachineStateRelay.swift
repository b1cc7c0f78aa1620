import CShims
import Glibc
import PageCore
import PageWire
import Synchronization

/// Carries machine state between a VMM's socket and a session, both ways, on a thread of its own, so that a VMM that
/// does not read (because it waits for a page) never holds a page up.
public final class MachineStateRelay: Sendable {
    /// The most bytes read from the VMM and not yet on their way.
    private static let mostUnsentBytes = 4 << 20
    /// The most bytes from the peer that a VMM may leave unread: more is no machine state.
    public static let mostSpooledBytes = 4 << 30

    /// What the VMM's socket brought.
    enum Piece: Sendable {
        case bytes([UInt8])
        case end
    }

    private struct Spool {
        var pieces: [[UInt8]] = []
        /// Bytes of the first piece that the VMM has taken.
        var takenBytes = 0
        var totalBytes = 0
        var unsentBytes = 0
        var hasEnded = false
        var isStopped = false
    }

    private let spool = Mutex(Spool())
    private let socket: Int32
    private let wakeUp: Int32
    private let thread = Mutex<DedicatedThread?>(nil)

    /// - Parameters:
    ///   - socket: a stream socket to the VMM; closed by `stop`.
    ///   - toSession: called on the relay's thread, in order.
    init(adopting socket: Int32, toSession: @escaping @Sendable (Piece) -> Void) {
        self.socket = socket
        wakeUp = eventfd(0, Int32(EFD_CLOEXEC) | Int32(EFD_NONBLOCK))
        precondition(wakeUp >= 0, "the process has no descriptor left (eventfd: error \(errno)); raise `ulimit -n`")
        let flags = CShims_descriptorFlags(socket)
        _ = CShims_setDescriptorFlags(socket, flags | O_NONBLOCK)
        thread.withLock { thread in
            thread = DedicatedThread(name: "machine-state") { [self] in run(toSession) }
        }
    }

    deinit {
        close(wakeUp)
        close(socket)
    }

    /// Bytes for the VMM.
    ///
    /// - Returns: false when the VMM has left more unread than any machine state holds.
    func deliver(_ bytes: [UInt8]) -> Bool {
        let fits = spool.withLock { spool in
            guard spool.totalBytes + bytes.count <= Self.mostSpooledBytes else { return false }
            spool.pieces.append(bytes)
            spool.totalBytes += bytes.count
            return true
        }
        eventfd_write(wakeUp, 1)
        return fits
    }

    /// Nothing more will come for the VMM.
    func deliverEnd() {
        spool.withLock { $0.hasEnded = true }
        eventfd_write(wakeUp, 1)
    }

    /// Bytes handed to the session are on their way: as many more may be read.
    func accepted(bytes: Int) {
        let mustWake = spool.withLock { spool in
            let wasFull = spool.unsentBytes >= Self.mostUnsentBytes
            spool.unsentBytes -= bytes
            return wasFull && spool.unsentBytes < Self.mostUnsentBytes
        }
        if mustWake { eventfd_write(wakeUp, 1) }
    }

    /// Ends the thread; bytes not delivered are dropped. The socket closes with the relay.
    func stop() {
        spool.withLock { $0.isStopped = true }
        eventfd_write(wakeUp, 1)
        let running = thread.withLock { $0.take() }
        running?.join()
        _ = shutdown(socket, Int32(SHUT_RDWR))
    }

    // MARK: The thread

    private func run(_ toSession: (Piece) -> Void) {
        var readsFromVMM = true
        var writesToVMM = true
        while true {
            let (wantsRead, wantsWrite, endsWriting, isStopped) = spool.withLock { spool in
                (spool.unsentBytes < Self.mostUnsentBytes, !spool.pieces.isEmpty, spool.hasEnded, spool.isStopped)
            }
            if isStopped { return }
            if writesToVMM && !wantsWrite && endsWriting {
                _ = shutdown(socket, Int32(SHUT_WR))
                writesToVMM = false
            }
            var events: Int16 = 0
            if readsFromVMM && wantsRead { events |= Int16(POLLIN) }
            if writesToVMM && wantsWrite { events |= Int16(POLLOUT) }
            // A negative descriptor is passed over: a socket that hung up would otherwise make poll spin.
            var entries = [
                pollfd(fd: events == 0 ? -1 : socket, events: events, revents: 0),
                pollfd(fd: wakeUp, events: Int16(POLLIN), revents: 0),
            ]
            // SAFETY: two local entries, for the duration of the call.
            _ = unsafe poll(&entries, 2, -1)
            var count: eventfd_t = 0
            _ = unsafe eventfd_read(wakeUp, &count)
            if readsFromVMM && wantsRead { readsFromVMM = readOnce(toSession) }
            if writesToVMM && wantsWrite { writesToVMM = writeOnce() }
        }
    }

    /// - Returns: false when the VMM has closed its end.
    private func readOnce(_ toSession: (Piece) -> Void) -> Bool {
        // SAFETY: the closure's buffer has the stated capacity, and the count says how much of it the kernel filled.
        var length = 0
        let bytes = unsafe [UInt8](unsafeUninitializedCapacity: FrameLimits.mostControlBytes) { buffer, count in
            length = unsafe recv(socket, buffer.baseAddress, buffer.count, 0)
            count = max(0, length)
        }
        if length > 0 {
            spool.withLock { $0.unsentBytes += length }
            toSession(.bytes(bytes))
            return true
        }
        if length < 0 && (errno == EAGAIN || errno == EINTR) { return true }
        toSession(.end)
        return false
    }

    /// - Returns: false when the VMM takes nothing any more.
    private func writeOnce() -> Bool {
        let next = spool.withLock { spool in (spool.pieces.first ?? [], spool.takenBytes) }
        // SAFETY: the array outlives the call, and the offset is below its count.
        let length = unsafe next.0.withUnsafeBytes { bytes in
            unsafe send(socket, bytes.baseAddress! + next.1, bytes.count - next.1, Int32(MSG_NOSIGNAL))
        }
        if length < 0 { return errno == EAGAIN || errno == EINTR }
        spool.withLock { spool in
            spool.takenBytes += length
            spool.totalBytes -= length
            if spool.takenBytes == next.0.count {
                spool.pieces.removeFirst()
                spool.takenBytes = 0
            }
        }
        return true
    }
}
