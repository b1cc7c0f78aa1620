import CShims
import Glibc

/// The service manager that started this process, systemd or another that speaks its notification protocol (sd_notify(3)).
///
/// Messages are datagrams of `NAME=value` lines on the unix socket that `NOTIFY_SOCKET` names. What cannot be sent is not
/// sent: a daemon serves its memory whether or not its manager listens.
public final class ServiceManager: Sendable {
    private let socket: Int32

    /// The manager that `NOTIFY_SOCKET` names; nil without one. Takes the variable out of the environment, so that programs
    /// started later do not speak for this one.
    ///
    /// Call before other threads run: the environment has no lock.
    public static func fromEnvironment() -> ServiceManager? {
        // SAFETY: here and below: names are terminated literals; the value is copied at once, and nobody changes it meanwhile.
        guard let value = unsafe getenv("NOTIFY_SOCKET") else { return nil }
        let path = unsafe String(cString: value)
        unsafe unsetenv("NOTIFY_SOCKET")
        return ServiceManager(path: path)
    }

    /// - Parameter path: of its socket; a leading `@` stands for the abstract namespace.
    public init?(path: String) {
        let descriptor = unsafe pageferry_service_connect(path)
        guard descriptor >= 0 else { return nil }
        socket = descriptor
    }

    deinit { close(socket) }

    /// Start-up has finished (`READY=1`).
    public func ready() { send(["READY=1"]) }

    /// The end has begun (`STOPPING=1`).
    public func stopping() { send(["STOPPING=1"]) }

    /// One line for `systemctl status` (`STATUS=`).
    public func status(_ text: String) { send(["STATUS=\(Self.line(text))"]) }

    /// Puts a descriptor into the manager's store (`FDSTORE=1`), where it outlives this process: the next start gets it by
    /// `StoredDescriptors`. The caller keeps its own. A full store drops it in silence.
    ///
    /// - Parameter name: up to 255 printable characters without a colon.
    public func store(_ descriptor: Int32, name: String) {
        // Without FDPOLL=0 the manager would forget a connection the moment its peer goes.
        send(["FDSTORE=1", "FDPOLL=0", "FDNAME=\(name)"], descriptor: descriptor)
    }

    /// Closes what the store has under that name (`FDSTOREREMOVE=1`).
    public func forget(name: String) { send(["FDSTOREREMOVE=1", "FDNAME=\(name)"]) }

    /// Waits until the manager has worked through everything sent before (`BARRIER=1`): messages of a process that dies
    /// before they are read are lost.
    ///
    /// - Returns: whether it has, within the time.
    @discardableResult
    public func synchronize(timeoutMilliseconds: Int32 = 5_000) -> Bool {
        var ends: [Int32] = [-1, -1]
        guard unsafe pipe(&ends) == 0 else { return false }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        defer { close(ends[0]) }
        let isSent = send(["BARRIER=1"], descriptor: ends[1])
        close(ends[1])
        guard isSent else { return false }
        // The manager closes its copy of the other end: that is its answer.
        var entry = pollfd(fd: ends[0], events: 0, revents: 0)
        return unsafe poll(&entry, 1, timeoutMilliseconds) == 1
    }

    /// One message of one line: what others named must not add lines of its own.
    private static func line(_ text: String) -> String {
        String(String.UnicodeScalarView(text.unicodeScalars.map { $0.value < 32 ? " " : $0 }))
    }

    @discardableResult
    private func send(_ lines: [String], descriptor: Int32? = nil) -> Bool {
        let bytes = Array((lines.joined(separator: "\n") + "\n").utf8)
        let descriptors = descriptor.map { [$0] } ?? []
        // SAFETY: both arrays live for the call, and their counts bound what is read.
        let answer = unsafe pageferry_service_send(socket, bytes, bytes.count, descriptors, Int32(descriptors.count))
        return answer == 0
    }
}
