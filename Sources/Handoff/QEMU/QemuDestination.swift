import CShims
import Glibc
import PageCore

/// A QEMU that takes a guest over, started by us or by somebody else. Its memory arrives through the preload library's hand-off; its machine state
/// through a socket of ours. For one thread at a time.
///
/// What QEMU 7.2 does (each is a test in Tests/HandoffTests/QemuMigrationTests.swift and QemuFailureTests.swift): with -S
/// it is in `inmigrate` until the machine state is loaded and `paused` from then on, until `cont`. `cont` before that is
/// accepted and makes the guest run by itself as soon as it is loaded, which is why `resume` refuses. A stream that breaks
/// or makes no sense ends the process with status 1. Its main thread may wait for a page at any time, and its monitor is
/// silent meanwhile.
public final class QemuDestination {
    public var process: pid_t { host.process }
    /// Readable once the process has ended.
    public var processDescriptor: Int32 { host.descriptor }

    private let host: QemuHost
    private var monitor: OwnedDescriptor?
    /// Of a QEMU that somebody else has started.
    private var monitorPath: String?
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
    ///   - userfaultDevice: an open /dev/userfaultfd, inherited by a QEMU that may not open a userfaultfd itself; nil for none.
    ///   - ownSession: apart from our terminal's signals, which are ours to handle.
    ///   - keepsErrorOutput: also keep what it writes to its standard error, for errors. It passes through this process
    ///     then: not for a QEMU that is to outlive it.
    public init(
        _ command: QemuCommandLine, preloadLibrary: String?, handoffPath: String, spareMonitorPath: String? = nil,
        userfaultDevice: Int32? = nil, ownSession: Bool = true, keepsErrorOutput: Bool = true
    ) throws(QemuError) {
        var environment = Environment.current
        if let preloadLibrary {
            let added = try command.preloadEnvironment(
                preloadLibrary: preloadLibrary, handoffPath: handoffPath, userfaultDevice: userfaultDevice)
            environment.merge(added) { $1 }
        }
        let pair = try SocketPair()
        host = .child(
            try QemuProcess(
                command.incoming(monitor: pair.theirs.rawValue, spareMonitorPath: spareMonitorPath), environment: environment,
                inheriting: [pair.theirs.rawValue] + (userfaultDevice.map { [$0] } ?? []), ownSession: ownSession,
                keepsErrorOutput: keepsErrorOutput))
        monitor = OwnedDescriptor(adopting: pair.releaseOurs())
    }

    /// A QEMU that somebody else has started with -incoming defer.
    ///
    /// - Parameter monitorPath: its QMP socket, which nobody else uses.
    public init(adopting qemu: AdoptedQemu, monitorPath: String) {
        host = .foreign(qemu)
        self.monitorPath = monitorPath
    }

    // MARK: The migration

    /// Connects to the new QEMU. When this returns its memory has been handed over.
    public func connect(timeoutNanoseconds: UInt64) throws(QemuError) {
        if let path = monitorPath.take() { return try connect(to: path, timeoutNanoseconds) }
        guard let monitor = monitor.take() else { throw .connectionLost }
        do throws(QemuError) {
            client = try QMPClient(
                adopting: monitor.release(), name: "the new QEMU", timeoutNanoseconds: timeoutNanoseconds)
        } catch {
            throw ifEnded(error)
        }
    }

    private func connect(to path: String, _ timeoutNanoseconds: UInt64) throws(QemuError) {
        do throws(QemuError) {
            let client = try QMPClient(connectingTo: path, timeoutNanoseconds: timeoutNanoseconds)
            let status = try client.execute("query-status")["status"]?.string ?? "unknown"
            guard status == "inmigrate" else { throw QemuError.notIncoming(status: status) }
            // Started without -S it would run by itself once it is loaded; this makes it wait for the commit.
            try client.execute("stop")
            self.client = client
        } catch {
            throw ifEnded(error)
        }
    }

    /// The ids of its memory backends, one for each of the regions handed over: the backend that QEMU has mapped there.
    ///
    /// - Parameter regions: where QEMU has mapped each, and its length in bytes, which may be rounded up to whole pages.
    public func backendNames(of regions: [(address: UInt, lengthBytes: Int)]) throws(QemuError) -> [String] {
        let backends = try connected().memoryBackends()
        guard backends.count == regions.count else {
            throw .memoryOfNoBackend("it has \(backends.count) backends, and handed over \(regions.count) regions")
        }
        var names: [String] = []
        for region in regions {
            let candidates = backends.filter { backend in
                guard let address = backend.hostAddress else {
                    return region.lengthBytes >= backend.sizeBytes && region.lengthBytes - backend.sizeBytes < 2 << 20
                }
                return address == region.address
            }
            // What is known to lie here counts before what might.
            let known = candidates.filter { $0.hostAddress != nil }
            guard let found = known.first ?? (candidates.count == 1 ? candidates.first : nil), !names.contains(found.name) else {
                throw .memoryOfNoBackend("\(region.lengthBytes) bytes at 0x\(String(region.address, radix: 16)) belong to no one backend")
            }
            names.append(found.name)
        }
        return names
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
        _ = host.waitForEnd(timeoutMilliseconds: 2_000)
        if let error = host.endError { return error }
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
    public func waitForEnd(timeoutMilliseconds: Int32) -> Int32? { host.waitForEnd(timeoutMilliseconds: timeoutMilliseconds) }

    /// Why it ended, with the last lines of its standard error; nil while it runs.
    public var endError: QemuError? { host.endError }

    /// Ends it, whatever it waits for. Only before the switch is committed.
    public func kill() {
        // Asked first, QEMU removes the sockets and files its user had it make.
        host.signal(SIGTERM)
        if host.waitForEnd(timeoutMilliseconds: 1_000) == nil { host.signal(SIGKILL) }
        _ = host.waitForEnd(timeoutMilliseconds: 10_000)
    }

    /// Asks it to end as its own terminal's Ctrl-C would; `waitForEnd` sees it.
    public func terminate() { host.signal(SIGTERM) }

    /// A lost connection is better explained by the process's end.
    private func ifEnded(_ error: QemuError) -> QemuError {
        guard case .connectionLost = error, host.waitForEnd(timeoutMilliseconds: 1_000) != nil else { return error }
        return host.endError ?? error
    }
}
