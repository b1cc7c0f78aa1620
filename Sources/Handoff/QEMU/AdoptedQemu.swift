import CShims
import Foundation
import Glibc
import PageCore

/// A QEMU that somebody else has started, or a daemon before this one: known by its process and, where the guest does not run yet, by
/// a monitor.
public final class AdoptedQemu {
    public let process: pid_t
    /// Readable once the process has ended.
    public let processDescriptor: Int32

    /// - Parameter startTicks: when the process was started (`startTicks(of:)`), since process numbers are used again.
    /// - Returns: nil when that process has ended.
    public init?(process: pid_t, startTicks: UInt64) {
        let descriptor = pageferry_pidfd_open(process)
        guard descriptor >= 0 else { return nil }
        // Behind the pidfd: from here on the number cannot become another's unnoticed.
        guard Self.startTicks(of: process) == startTicks else {
            close(descriptor)
            return nil
        }
        self.process = process
        processDescriptor = descriptor
    }

    /// A process that is known to run: it is connected to us, say.
    public init(process: pid_t) throws(QemuError) {
        let descriptor = pageferry_pidfd_open(process)
        guard descriptor >= 0 else { throw .systemCall("pidfd_open", code: -descriptor) }
        self.process = process
        processDescriptor = descriptor
    }

    deinit { close(processDescriptor) }

    /// When a process was started, in clock ticks since boot (/proc/PID/stat, field 22); nil when there is none.
    public static func startTicks(of process: pid_t) -> UInt64? {
        // Read in one go: /proc has no sizes.
        guard let data = FileManager.default.contents(atPath: "/proc/\(process)/stat") else { return nil }
        let text = String(decoding: data, as: UTF8.self)
        // The name before may hold blanks and brackets.
        guard let end = text.lastIndex(of: ")") else { return nil }
        let fields = text[text.index(after: end)...].split(separator: " ")
        return fields.count > 19 ? UInt64(fields[19]) : nil
    }

    /// Waits for its end.
    ///
    /// - Returns: false when it still runs at the end of the time.
    public func waitForEnd(timeoutMilliseconds: Int32) -> Bool {
        var entry = pollfd(fd: processDescriptor, events: Int16(POLLIN), revents: 0)
        // SAFETY: one local entry, for the duration of the call.
        return unsafe poll(&entry, 1, timeoutMilliseconds) > 0
    }

    /// Lets the guest run, whose machine state was loaded before; does nothing when it runs.
    public func resume(monitorPath: String) throws(QemuError) {
        let client = try QMPClient(connectingTo: monitorPath)
        try client.execute("cont", timeoutNanoseconds: 30_000_000_000)
    }

    /// Ends it. Only before the switch is committed.
    public func kill() {
        signal(SIGTERM)
        if !waitForEnd(timeoutMilliseconds: 1_000) { signal(SIGKILL) }
        _ = waitForEnd(timeoutMilliseconds: 10_000)
    }

    /// Asks it to end as its own terminal's Ctrl-C would.
    public func terminate() { signal(SIGTERM) }

    /// By its descriptor: its number may be another's once it has ended.
    func signal(_ number: Int32) { _ = pageferry_pidfd_signal(processDescriptor, number) }
}
