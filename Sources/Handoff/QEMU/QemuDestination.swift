import CShims
import Glibc
import PageCore

/// A QEMU started here to take a guest over. Its memory arrives through the preload library's hand-off; its machine state
/// through a socket of ours. For one thread at a time.
///
/// What QEMU 7.2 does (each is a test in Tests/HandoffTests/QemuMigrationTests.swift and QemuFailureTests.swift): with -S
/// it is in `inmigrate` until the machine state is loaded and `paused` from then on, until `cont`. `cont` before that is
/// accepted and makes the guest run by itself as soon as it is loaded, which is why `resume` refuses. A stream that breaks
/// or makes no sense ends the process with status 1. Its main thread may wait for a page at any time, and its monitor is
/// silent meanwhile.
public final class QemuDestination {
    public var process: pid_t { child.process }
    /// Readable once the process has ended.
    public var processDescriptor: Int32 { child.descriptor }

    private let child: QemuProcess
    private var monitor: OwnedDescriptor?
    private var client: QMPClient?
    private var isLoaded = false

    /// Starts QEMU with the preload library and an incoming migration that waits.
    ///
    /// It gets our standard streams and environment, and lives on when we end.
    ///
    /// - Parameters:
    ///   - command: the user's command line.
    ///   - preloadLibrary: the path of libpageferry-preload.so; nil without it, for memory that is there already.
    ///   - handoffPath: the socket on which its memory is awaited.
    ///   - spareMonitorPath: where it is to listen for the monitor of a daemon that takes over; nil for nowhere.
    ///   - ownSession: apart from our terminal's signals, which are ours to handle.
    ///   - keepsErrorOutput: also keep what it writes to its standard error, for errors. It passes through this process
    ///     then: not for a QEMU that is to outlive it.
    public init(
        _ command: QemuCommandLine, preloadLibrary: String?, handoffPath: String, spareMonitorPath: String? = nil,
        ownSession: Bool = true, keepsErrorOutput: Bool = true
    ) throws(QemuError) {
        var environment = Environment.current
        if let preloadLibrary {
            // Both are separators to the dynamic linker, which would go on without the library, on memory of zeros.
            // SAFETY: local values, read or filled during the call.
            guard !preloadLibrary.contains(where: { $0 == ":" || $0 == " " }), unsafe access(preloadLibrary, R_OK) == 0 else {
                throw .unusablePreload(path: preloadLibrary)
            }
            environment["LD_PRELOAD"] = [preloadLibrary, environment["LD_PRELOAD"]].compactMap { $0 }.joined(separator: ":")
            environment["PAGEFERRY_HANDOFF"] = handoffPath
            environment["PAGEFERRY_RAM"] = command.memoryPatterns.joined(separator: ":")
            environment["PAGEFERRY_RAM_COUNT"] = "\(command.memoryPatterns.count)"
        }
        let pair = try SocketPair()
        child = try QemuProcess(
            command.incoming(monitor: pair.theirs.rawValue, spareMonitorPath: spareMonitorPath), environment: environment, inheriting: pair.theirs.rawValue,
            ownSession: ownSession, keepsErrorOutput: keepsErrorOutput)
        monitor = OwnedDescriptor(adopting: pair.releaseOurs())
    }

    // MARK: The migration

    /// Connects to the new QEMU. When this returns its memory has been handed over.
    public func connect(timeoutNanoseconds: UInt64) throws(QemuError) {
        guard let monitor = monitor.take() else { throw .connectionLost }
        do throws(QemuError) {
            client = try QMPClient(
                adopting: monitor.release(), name: "the new QEMU", timeoutNanoseconds: timeoutNanoseconds)
        } catch {
            throw ifEnded(error)
        }
    }

    /// Begins to load.
    ///
    /// - Returns: a socket that takes the machine state and brings the return path; the caller closes it.
    public func beginIncoming() throws(QemuError) -> Int32 {
        let client = try connected()
        let states = ["x-ignore-shared", "events", "return-path"].map { name in
            JSONValue.object(["capability": .string(name), "state": true])
        }
        let pair = try SocketPair()
        do throws(QemuError) {
            try client.execute("migrate-set-capabilities", ["capabilities": .array(states)])
            try client.execute("getfd", ["fdname": "pageferry-migration"], descriptor: pair.theirs.rawValue)
            try client.execute("migrate-incoming", ["uri": "fd:pageferry-migration"])
        } catch {
            throw ifEnded(error)
        }
        return pair.releaseOurs()
    }

    /// Waits until the machine state is loaded; the guest is paused then. Its main thread may wait for pages meanwhile.
    public func waitForLoaded(deadlineNanoseconds: UInt64) throws(QemuError) {
        let client = try connected()
        do throws(QemuError) {
            while !isLoaded {
                guard let event = try client.nextEvent(named: ["MIGRATION"], deadlineNanoseconds: deadlineNanoseconds) else {
                    throw QemuError.timedOut(waitingFor: "the machine state to be loaded")
                }
                switch event.data["status"]?.string ?? "unknown" {
                case "completed": isLoaded = true
                case "failed": throw failure()
                default: continue
                }
            }
        } catch {
            throw ifEnded(error)
        }
    }

    /// QEMU ends by itself, a moment later, when it cannot load; should one stay, it may say why.
    private func failure() -> QemuError {
        _ = child.waitForEnd(timeoutMilliseconds: 2_000)
        if let error = child.endError { return error }
        let text = try? client?.execute("query-migrate", timeoutNanoseconds: 1_000_000_000)["error-desc"]?.string
        return .migrationFailed(text ?? "the destination's QEMU could not load the machine state; see its own messages")
    }

    /// Lets the guest run here. Only after `waitForLoaded`.
    ///
    /// - Returns: when it did, on the monotonic clock.
    public func resume(timeoutNanoseconds: UInt64 = 30_000_000_000) throws(QemuError) -> UInt64 {
        let client = try connected()
        guard isLoaded else { throw .notLoaded }
        let deadline = MonotonicClock.nowNanoseconds() &+ timeoutNanoseconds
        do throws(QemuError) {
            try client.execute("cont", timeoutNanoseconds: timeoutNanoseconds)
            guard let event = try client.nextEvent(named: ["RESUME"], deadlineNanoseconds: deadline) else {
                throw .timedOut(waitingFor: "the guest to resume")
            }
            return event.arrivedNanoseconds
        } catch {
            throw ifEnded(error)
        }
    }

    /// What QEMU says of its guest and of the incoming migration.
    public func status(timeoutNanoseconds: UInt64 = 10_000_000_000) throws(QemuError) -> QemuStatus {
        let client = try connected()
        return QemuStatus(
            guest: try client.execute("query-status", timeoutNanoseconds: timeoutNanoseconds)["status"]?.string ?? "unknown",
            migration: try client.execute("query-migrate", timeoutNanoseconds: timeoutNanoseconds)["status"]?.string ?? "none")
    }

    private func connected() throws(QemuError) -> QMPClient {
        guard let client else { throw .connectionLost }
        return client
    }

    // MARK: The process

    /// Waits for its end.
    ///
    /// - Returns: its exit code, or 128 and its signal; nil when it still runs at the end of the time.
    public func waitForEnd(timeoutMilliseconds: Int32) -> Int32? { child.waitForEnd(timeoutMilliseconds: timeoutMilliseconds) }

    /// Why it ended, with the last lines of its standard error; nil while it runs.
    public var endError: QemuError? { child.endError }

    /// Ends it, whatever it waits for. Only before the switch is committed.
    public func kill() {
        // Asked first, QEMU removes the sockets and files its user had it make.
        child.signal(SIGTERM)
        if child.waitForEnd(timeoutMilliseconds: 1_000) == nil { child.signal(SIGKILL) }
        _ = child.waitForEnd(timeoutMilliseconds: 10_000)
    }

    /// Asks it to end as its own terminal's Ctrl-C would; `waitForEnd` sees it.
    public func terminate() { child.signal(SIGTERM) }

    /// A lost connection is better explained by the process's end.
    private func ifEnded(_ error: QemuError) -> QemuError {
        guard case .connectionLost = error, child.waitForEnd(timeoutMilliseconds: 1_000) != nil else { return error }
        return child.endError ?? error
    }
}
