import Glibc
import StreamTransport
import TestSupport
import Testing

/// `pageferry guard`, as the daemons start it.
@Suite(.leavesNothing, .serialized, .enabled(if: access(Built.pageferry, X_OK) == 0)) struct GuardTests {
    let scratch: Scratch

    init() throws { scratch = try Scratch() }

    /// A QEMU may end before its guard has looked at it: the daemon tells why, and the guard has nothing to add.
    @Test func aQemuThatHasEndedIsNoNews() throws {
        let ended = try Program(["/bin/true"], in: scratch)
        #expect(ended.exitCode() == 0)
        var listener = try StreamListener(on: .tcp(host: "127.0.0.1", port: 0))
        guard case .tcp(_, let port) = listener.address else {
            Issue.record("it listens on TCP")
            return
        }
        let script = "exec 9<>/dev/tcp/127.0.0.1/\(port); exec '\(Built.pageferry)' guard --process \(ended.process) 9"
        let watcher = try Program(["/bin/bash", "-c", script], in: scratch)
        guard let connection = try listener.accept(timeoutNanoseconds: 30_000_000_000) else {
            Issue.record("the guard has its socket")
            return
        }
        let daemon = connection.release()
        defer { close(daemon) }
        var byte: UInt8 = 1
        #expect(send(daemon, &byte, 1, Int32(MSG_NOSIGNAL)) == 1)
        var entry = pollfd(fd: daemon, events: Int16(POLLIN), revents: 0)
        #expect(Glibc.poll(&entry, 1, 30_000) == 1)
        #expect(recv(daemon, &byte, 1, 0) == 1, "it watches: \(watcher.errorOutput)")
        #expect(send(daemon, &byte, 1, Int32(MSG_NOSIGNAL)) == 1)
        #expect(watcher.exitCode() == 0)
        #expect(watcher.errorOutput == "")
    }
}
