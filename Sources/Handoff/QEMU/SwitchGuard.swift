import CShims
import Glibc
import PageCore

/// A small process that outlives a daemon killed outright, and puts right what the daemon cannot any more: before the
/// commit a machine must not stay paused on the source, nor be left behind on the destination.
///
/// The two share a socket. A byte from the daemon means that the switch is committed, and the guard ends; the end of the
/// stream without it means that the daemon has ended before, and the guard acts. The byte survives the daemon that wrote
/// it, so there is one point at which the guard's duty ends.
public final class SwitchGuard {
    private let process: QemuProcess
    private let socket: OwnedDescriptor

    private static let start: UInt8 = 1

    /// Starts `command`, a program that calls `SwitchGuard.watch`, with the number of its socket as its last argument.
    ///
    /// - Parameter descriptor: the guard gets a copy of it.
    public init(_ command: [String], passing descriptor: Int32?) throws(QemuError) {
        let pair = try SocketPair()
        process = try QemuProcess(
            command + ["\(pair.theirs.rawValue)"], environment: Environment.current, inheriting: [pair.theirs.rawValue],
            ownSession: true, keepsErrorOutput: false)
        socket = OwnedDescriptor(adopting: pair.releaseOurs())
        let descriptors = descriptor.map { [$0] } ?? []
        // SAFETY: both arrays outlive the call.
        guard unsafe pageferry_handoff_send(socket.rawValue, [Self.start], 1, descriptors, Int32(descriptors.count)) == 1 else {
            throw .connectionLost
        }
    }

    /// Waits until the guard watches.
    public func waitUntilReady(timeoutNanoseconds: UInt64) throws(QemuError) {
        var entry = pollfd(fd: socket.rawValue, events: Int16(POLLIN), revents: 0)
        var byte: UInt8 = 0
        // SAFETY: a local entry and a local byte, for the duration of the calls.
        guard unsafe poll(&entry, 1, Int32(clamping: timeoutNanoseconds / 1_000_000)) > 0 else {
            throw .timedOut(waitingFor: "the guard of the switch to start")
        }
        guard unsafe recv(socket.rawValue, &byte, 1, 0) == 1 else {
            _ = process.waitForEnd(timeoutMilliseconds: 1_000)
            throw process.endError ?? .connectionLost
        }
    }

    /// The switch is committed: whatever becomes of this daemon, the guard does nothing from here on.
    ///
    /// When this returns that is settled: the byte is in the kernel's hands. A guard that has ended does nothing either.
    public func release() {
        var byte: UInt8 = 1
        // SAFETY: one local byte, for the duration of the call. The socket's buffer is empty: this does not wait.
        _ = unsafe send(socket.rawValue, &byte, 1, Int32(MSG_NOSIGNAL))
    }

    /// The guard's own side: waits until the daemon has committed, or has ended without.
    ///
    /// - Parameters:
    ///   - socket: what the daemon passed on; closed at the end.
    ///   - isReady: called with a copy of the daemon's descriptor before the daemon is told that it is watched.
    /// - Returns: whether the daemon ended before the commit.
    public static func watch(_ socket: Int32, isReady: (_ descriptor: Int32?) throws(QemuError) -> Void) throws(QemuError) -> Bool {
        let socket = OwnedDescriptor(adopting: socket)
        for number in [SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGQUIT] { _ = signal(number, SIG_IGN) }
        var byte: UInt8 = 0
        var entry = pollfd(fd: socket.rawValue, events: Int16(POLLIN), revents: 0)
        // SAFETY: here and below: a local entry and a local byte, for the duration of the calls.
        while unsafe poll(&entry, 1, -1) < 0, errno == EINTR {}
        let started = unsafe pageferry_handoff_receive(socket.rawValue, &byte, 1)
        guard started.bytes == 1 else { return false }
        try isReady(started.count > 0 ? started.descriptors.0 : nil)
        _ = unsafe send(socket.rawValue, &byte, 1, Int32(MSG_NOSIGNAL))
        while true {
            let count = unsafe recv(socket.rawValue, &byte, 1, 0)
            if count < 0 && errno == EINTR { continue }
            return count != 1
        }
    }
}

/// A process that is not our child, held by a descriptor, so that nobody else's is meant when it has ended.
public struct ForeignProcess: ~Copyable {
    private let descriptor: OwnedDescriptor

    public init(_ process: pid_t) throws(QemuError) {
        let number = pageferry_pidfd_open(process)
        guard number >= 0 else { throw .systemCall("pidfd_open", code: -number) }
        descriptor = OwnedDescriptor(adopting: number)
    }

    /// Ends it: asked first, so that it removes its sockets and files, killed after a second.
    ///
    /// - Returns: whether it still ran.
    public func end() -> Bool {
        guard pageferry_pidfd_signal(descriptor.rawValue, SIGTERM) == 0 else { return false }
        var entry = pollfd(fd: descriptor.rawValue, events: Int16(POLLIN), revents: 0)
        // SAFETY: one local entry, for the duration of the call.
        if unsafe poll(&entry, 1, 1_000) == 0 { _ = pageferry_pidfd_signal(descriptor.rawValue, SIGKILL) }
        return true
    }
}
