import CShims
import Glibc
import PageCore

/// A running QEMU whose guest is to leave: finds its memory, starts its migration, and brings the guest back when nothing
/// comes of it. For one thread at a time.
///
/// What QEMU 7.2 does by itself (each is a test in Tests/HandoffTests/QemuFailureTests.swift):
/// - A stream that breaks before the guest has stopped: `failed`, the guest never stopped.
/// - A stream that breaks after it, or a destination that ends before it has loaded: `failed`, and QEMU resumes the guest
///   (STOP, MIGRATION failed, RESUME).
/// - `migrate_cancel` before the end: `cancelled`, and QEMU resumes the guest.
/// - Completed: the guest stays stopped in `postmigrate`, whatever becomes of the destination; `cont` makes it run again.
///
/// - While it writes device state its monitor is silent, for good when nobody reads the stream: whoever gives up closes
///   the stream's socket before anything else.
///
/// So before the commit only a completed migration needs `recoverGuest`, but it is right in every state.
public final class QemuSource {
    let client: QMPClient
    /// What `prepare` changed, and what it was before.
    var previousCapabilities: [String: Bool] = [:]
    var previousParameters: [String: JSONValue] = [:]

    public init(connectingTo path: String) throws(QemuError) {
        client = try QMPClient(connectingTo: path)
    }

    /// Goes on with the connection of a daemon that has ended: a copy of its `descriptor`, which is closed with this value.
    public init(continuing descriptor: Int32) { client = QMPClient(continuing: descriptor) }

    init(client: QMPClient) { self.client = client }

    /// The process that runs the guest.
    public var process: pid_t? { client.peerProcess }

    /// Readable when QEMU has something to say or has ended; for poll(2) alone.
    public var descriptor: Int32 { client.descriptor }

    // MARK: State

    public func version() throws(QemuError) -> QemuVersion {
        let answer = try client.execute("query-version")["qemu"]
        guard let major = answer?["major"]?.integer, let minor = answer?["minor"]?.integer else {
            throw .malformedMessage("a version without numbers")
        }
        return QemuVersion(major: major, minor: minor, micro: answer?["micro"]?.integer ?? 0)
    }

    public func status(timeoutNanoseconds: UInt64 = 10_000_000_000) throws(QemuError) -> QemuStatus {
        QemuStatus(
            guest: try client.execute("query-status", timeoutNanoseconds: timeoutNanoseconds)["status"]?.string ?? "unknown",
            migration: try client.execute("query-migrate", timeoutNanoseconds: timeoutNanoseconds)["status"]?.string ?? "none")
    }

    /// Checks that this QEMU can be served, and opens its memory: the backends in the order of their ids.
    public func inspect() throws(QemuError) -> [QemuMemoryBackend] {
        try requireRunning()
        _ = try readCapabilities()
        return try openMemory()
    }

    /// The memory of a guest that has been committed to a destination, for a daemon that takes over from one that died.
    public func inspectCommitted() throws(QemuError) -> [QemuMemoryBackend] {
        let status = try status()
        // It has not run since, so the pages the destination lacks are those it left.
        guard status.guest == "postmigrate" else { throw .notStopped(status: status.guest) }
        return try openMemory()
    }

    func requireRunning() throws(QemuError) {
        let status = try status()
        guard status.guest == "running" else { throw .notRunning(status: status.guest) }
        guard ["none", "completed", "failed", "cancelled"].contains(status.migration) else {
            throw .migrationActive(status: status.migration)
        }
    }

    // MARK: The migration

    /// Starts the migration. `prepare` comes before it.
    ///
    /// QEMU's answer is not waited for: it may already be writing, and then answers once somebody reads. Should it refuse,
    /// `waitForStop` throws that.
    ///
    /// - Returns: a socket that brings the machine state and takes the return path; the caller reads it at once, and closes it.
    public func beginMigration() throws(QemuError) -> Int32 {
        let pair = try SocketPair()
        try client.execute("getfd", ["fdname": "pageferry-migration"], descriptor: pair.theirs.rawValue)
        do throws(QemuError) {
            try requireRunning()
            // A STOP or a failure from before must not be taken for this migration's.
            client.discardEvents()
            try client.start("migrate", ["uri": "fd:pageferry-migration"])
        } catch {
            _ = try? client.execute("closefd", ["fdname": "pageferry-migration"])
            throw error
        }
        return pair.releaseOurs()
    }

    /// Waits until the guest has stopped, and says so at once: every millisecond from here on is the guest's gap.
    ///
    /// It was the migration that stopped it, or somebody else meanwhile, who might let it run again. What the destination
    /// was given until then is worth nothing in that case, and `waitForCompletion` refuses it.
    ///
    /// - Returns: when, on the monotonic clock.
    public func waitForStop(deadlineNanoseconds: UInt64) throws(QemuError) -> UInt64 {
        while true {
            let event = try client.nextEvent(named: ["STOP", "MIGRATION"], deadlineNanoseconds: deadlineNanoseconds)
            guard let event else { throw .timedOut(waitingFor: "the guest to stop") }
            if event.name == "STOP" { return event.arrivedNanoseconds }
            try throwIfFailed(event)
        }
    }

    /// Waits until the destination's QEMU has loaded the machine state and said so on the return path.
    ///
    /// When this returns the guest has not run since `waitForStop`, is stopped here for good, and may be committed to the
    /// destination.
    public func waitForCompletion(deadlineNanoseconds: UInt64) throws(QemuError) {
        var isCompleted = false
        while !isCompleted {
            let event = try client.nextEvent(named: ["MIGRATION", "RESUME"], deadlineNanoseconds: deadlineNanoseconds)
            guard let event else { throw .timedOut(waitingFor: "the destination to load the machine state") }
            if event.name == "RESUME" { throw .notStopped(status: "running") }
            try throwIfFailed(event)
            isCompleted = event.data["status"]?.string == "completed"
        }
        // QEMU completes first and then changes its state.
        while MonotonicClock.nowNanoseconds() < deadlineNanoseconds {
            let guest = try status().guest
            if guest == "postmigrate" { return }
            guard guest == "finish-migrate" || guest == "paused" else { throw .notStopped(status: guest) }
            _ = poll(nil, 0, 1)
        }
        throw .timedOut(waitingFor: "the migration to end")
    }

    private func throwIfFailed(_ event: QMPEvent) throws(QemuError) {
        let status = event.data["status"]?.string ?? "unknown"
        guard status == "failed" || status == "cancelled" else { return }
        throw .migrationFailed(
            try client.execute("query-migrate")["error-desc"]?.string
                ?? (status == "failed" ? "the stream to the destination broke" : "it was cancelled"))
    }

    /// Asks QEMU to give the migration up, whose stream is closed or still read; `waitForStop`, `waitForCompletion` or `recoverGuest` see the end of it.
    public func cancel() throws(QemuError) {
        try client.execute("migrate_cancel")
    }

    /// Ends this QEMU. Only when every page is at the destination.
    public func quit() throws(QemuError) {
        do throws(QemuError) {
            try client.execute("quit")
        } catch .connectionLost {
            // It ended before its answer was out.
        }
    }
}
