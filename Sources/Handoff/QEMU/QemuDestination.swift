import CShims
import Glibc
import PageCore

/// A QEMU started here to take a guest over. Its memory arrives through the preload library's hand-off; its machine state
/// through a socket of ours. For one thread.
public final class QemuDestination {
    /// The descriptor of our monitor in the new process: beyond what shells and QEMU's own options usually name.
    private static let monitorDescriptor: Int32 = 97

    public let process: pid_t
    /// Readable once the process has ended.
    public let processDescriptor: Int32
    private let monitor: Int32
    private var client: QMPClient?
    private var exitCode: Int32?

    /// Starts QEMU with the preload library and an incoming migration that waits.
    ///
    /// - Parameters:
    ///   - command: the user's command line.
    ///   - preloadLibrary: the path of libpageferry-preload.so.
    ///   - handoffPath: the socket on which its memory is awaited.
    public init(
        _ command: QemuCommandLine, preloadLibrary: String, handoffPath: String
    ) throws(QemuError) {
        let (ours, theirs) = try QemuSockets.pair()
        var environment = Environment.current
        environment["LD_PRELOAD"] = [preloadLibrary, environment["LD_PRELOAD"]].compactMap { $0 }.joined(separator: ":")
        environment["PAGEFERRY_HANDOFF"] = handoffPath
        environment["PAGEFERRY_RAM"] = command.memoryPatterns.joined(separator: ":")
        do throws(QemuError) {
            process = try Self.spawn(
                command.incoming(monitor: Self.monitorDescriptor), environment, inheriting: theirs, as: Self.monitorDescriptor)
            close(theirs)
        } catch {
            close(ours)
            close(theirs)
            throw error
        }
        monitor = ours
        processDescriptor = pageferry_pidfd_open(process)
    }

    deinit {
        if processDescriptor >= 0 { close(processDescriptor) }
        if client == nil { close(monitor) }
    }

    // MARK: The migration

    /// Connects to the new QEMU. When this returns its memory has been handed over.
    public func connect(timeoutNanoseconds: UInt64) throws(QemuError) {
        do throws(QemuError) {
            client = try QMPClient(adopting: monitor, name: "the new QEMU", timeoutNanoseconds: timeoutNanoseconds)
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
        let (ours, theirs) = try QemuSockets.pair()
        do throws(QemuError) {
            try client.execute("migrate-set-capabilities", ["capabilities": .array(states)])
            try client.execute("getfd", ["fdname": "pageferry-migration"], descriptor: theirs)
            close(theirs)
            try client.execute("migrate-incoming", ["uri": "fd:pageferry-migration"])
        } catch {
            close(ours)
            throw ifEnded(error)
        }
        return ours
    }

    /// Waits until the machine state is loaded; the guest is paused then. Its main thread may wait for pages meanwhile.
    public func waitForLoaded(deadlineNanoseconds: UInt64) throws(QemuError) {
        let client = try connected()
        do throws(QemuError) {
            while true {
                guard let event = try client.nextEvent(named: ["MIGRATION"], deadlineNanoseconds: deadlineNanoseconds) else {
                    throw QemuError.timedOut(waitingFor: "the machine state to be loaded")
                }
                switch event.data["status"]?.string ?? "unknown" {
                case "completed": return
                case "failed": throw QemuError.migrationFailed("the destination's QEMU could not load the machine state; see its own messages")
                default: continue
                }
            }
        } catch {
            throw ifEnded(error)
        }
    }

    /// Lets the guest run here.
    ///
    /// - Returns: when it did, on the monotonic clock.
    public func resume(timeoutNanoseconds: UInt64 = 30_000_000_000) throws(QemuError) -> UInt64 {
        let client = try connected()
        do throws(QemuError) {
            try client.execute("cont", timeoutNanoseconds: timeoutNanoseconds)
            let deadline = MonotonicClock.nowNanoseconds() + timeoutNanoseconds
            guard let event = try client.nextEvent(named: ["RESUME"], deadlineNanoseconds: deadline) else {
                throw .timedOut(waitingFor: "the guest to resume")
            }
            return event.arrivedNanoseconds
        } catch {
            throw ifEnded(error)
        }
    }

    private func connected() throws(QemuError) -> QMPClient {
        guard let client else { throw .connectionLost }
        return client
    }

    // MARK: The process

    /// Waits for its end.
    ///
    /// - Returns: its exit code, or 128 and its signal; nil when it still runs at the deadline.
    public func waitForEnd(timeoutMilliseconds: Int32) -> Int32? {
        if let exitCode { return exitCode }
        if processDescriptor >= 0 {
            var entry = pollfd(fd: processDescriptor, events: Int16(POLLIN), revents: 0)
            // SAFETY: one local entry, for the duration of the call.
            guard unsafe poll(&entry, 1, timeoutMilliseconds) > 0 else { return nil }
        }
        var status: Int32 = 0
        // SAFETY: one local integer, filled during the call.
        guard unsafe waitpid(process, &status, processDescriptor >= 0 ? 0 : WNOHANG) == process else { return nil }
        exitCode = pageferry_exit_code(status)
        return exitCode
    }

    /// Ends it, whatever it waits for. Only before the switch is committed.
    public func kill() {
        // Asked first, QEMU removes the sockets and files its user had it make.
        if exitCode == nil { Glibc.kill(process, SIGTERM) }
        if waitForEnd(timeoutMilliseconds: 1_000) == nil { Glibc.kill(process, SIGKILL) }
        _ = waitForEnd(timeoutMilliseconds: 10_000)
    }

    /// A lost connection is better explained by the process's end.
    private func ifEnded(_ error: QemuError) -> QemuError {
        guard case .connectionLost = error, let code = waitForEnd(timeoutMilliseconds: 1_000) else { return error }
        return .ended(status: code)
    }

    private static func spawn(
        _ arguments: [String], _ environment: [String: String], inheriting descriptor: Int32, as number: Int32
    ) throws(QemuError) -> pid_t {
        var child: pid_t = 0
        var attributes = posix_spawnattr_t()
        var actions = unsafe posix_spawn_file_actions_t()
        var signals = sigset_t()
        // SAFETY: every structure is local and initialized before it is read; strings are freed after the call.
        unsafe posix_spawnattr_init(&attributes)
        unsafe posix_spawn_file_actions_init(&actions)
        // dup2 in the child clears close-on-exec: the one descriptor that is to be inherited.
        unsafe posix_spawn_file_actions_adddup2(&actions, descriptor, number)
        unsafe sigemptyset(&signals)
        unsafe posix_spawnattr_setsigmask(&attributes, &signals)
        unsafe sigaddset(&signals, SIGPIPE)
        unsafe posix_spawnattr_setsigdefault(&attributes, &signals)
        unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF))
        var argumentVector = unsafe arguments.map { unsafe strdup($0) } + [nil]
        var environmentVector = unsafe environment.map { unsafe strdup("\($0.key)=\($0.value)") } + [nil]
        let status = unsafe posix_spawnp(&child, arguments[0], &actions, &attributes, &argumentVector, &environmentVector)
        for unsafe string in unsafe argumentVector + environmentVector { unsafe free(string) }
        unsafe posix_spawn_file_actions_destroy(&actions)
        unsafe posix_spawnattr_destroy(&attributes)
        guard status == 0 else { throw .cannotStart(program: arguments[0], code: status) }
        return child
    }
}
