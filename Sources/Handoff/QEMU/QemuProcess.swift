import CShims
import Glibc
import Synchronization

/// A child process, from its start to its end.
final class QemuProcess {
    let process: pid_t
    /// A pidfd, readable once the process has ended.
    let descriptor: Int32
    private let errorOutput: ErrorOutput?
    /// Known to whoever asks first, on whatever thread; the others would wait for a process that is gone.
    private let exitCode = Mutex<Int32?>(nil)

    /// - Parameters:
    ///   - inherited: descriptors the child gets under their own numbers, beside the standard three and those not close-on-exec.
    ///   - ownSession: apart from our terminal's signals: a Ctrl-C meant for us must not end a guest that runs.
    ///   - keepsErrorOutput: pass its standard error on and keep its last lines; not for a child that outlives us.
    init(
        _ arguments: [String], environment: [String: String], inheriting inherited: [Int32], ownSession: Bool,
        keepsErrorOutput: Bool
    ) throws(QemuError) {
        var childEnd: OwnedDescriptor?
        if keepsErrorOutput {
            let (output, descriptor) = try ErrorOutput.start()
            errorOutput = output
            childEnd = OwnedDescriptor(adopting: descriptor)
        } else {
            errorOutput = nil
        }
        process = try Self.spawn(
            arguments, environment, inherited: inherited, errorOutput: childEnd?.rawValue ?? STDERR_FILENO, ownSession)
        descriptor = pageferry_pidfd_open(process)
        guard descriptor >= 0 else {
            let code = -descriptor
            Glibc.kill(process, SIGKILL)
            _ = waitpid(process, nil, 0)
            throw .systemCall("pidfd_open", code: code)
        }
    }

    deinit {
        if descriptor >= 0 { close(descriptor) }
    }

    /// Waits for its end.
    ///
    /// - Returns: its exit code, or 128 and its signal; nil when it still runs at the end of the time.
    func waitForEnd(timeoutMilliseconds: Int32) -> Int32? {
        if let code = exitCode.withLock({ $0 }) { return code }
        var entry = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        // SAFETY: here and below: one local entry or integer, for the duration of the call.
        guard unsafe poll(&entry, 1, timeoutMilliseconds) > 0 else { return nil }
        return exitCode.withLock { code in
            var status: Int32 = 0
            if code == nil, unsafe waitpid(process, &status, 0) == process { code = pageferry_exit_code(status) }
            return code
        }
    }

    /// Why it ended, with the last lines of its standard error; nil while it runs.
    var endError: QemuError? {
        guard let code = waitForEnd(timeoutMilliseconds: 0) else { return nil }
        return .ended(status: code, lastLines: errorOutput?.lastLines ?? "")
    }

    /// Sends a signal, unless it has been waited for: its number may be another's then.
    func signal(_ number: Int32) {
        exitCode.withLock { code in
            if code == nil { Glibc.kill(process, number) }
        }
    }

    private static func spawn(
        _ arguments: [String], _ environment: [String: String], inherited: [Int32], errorOutput: Int32, _ ownSession: Bool
    ) throws(QemuError) -> pid_t {
        var child: pid_t = 0
        var attributes = posix_spawnattr_t()
        var actions = unsafe posix_spawn_file_actions_t()
        var signals = sigset_t()
        var flags = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF
        if ownSession { flags |= Int32(PAGEFERRY_SPAWN_SETSID) }
        // SAFETY: every structure is local and initialized before it is read; strings are freed after the call.
        unsafe posix_spawnattr_init(&attributes)
        unsafe posix_spawn_file_actions_init(&actions)
        // Onto itself: takes close-on-exec away in the child alone, and hides none of the descriptors the user passes on.
        for descriptor in inherited { unsafe posix_spawn_file_actions_adddup2(&actions, descriptor, descriptor) }
        if errorOutput != STDERR_FILENO { unsafe posix_spawn_file_actions_adddup2(&actions, errorOutput, STDERR_FILENO) }
        unsafe sigemptyset(&signals)
        unsafe posix_spawnattr_setsigmask(&attributes, &signals)
        unsafe sigaddset(&signals, SIGPIPE)
        unsafe posix_spawnattr_setsigdefault(&attributes, &signals)
        unsafe posix_spawnattr_setflags(&attributes, Int16(flags))
        var argumentVector = unsafe arguments.map { unsafe strdup($0) } + [nil]
        var environmentVector = unsafe environment.map { unsafe strdup("\($0.key)=\($0.value)") } + [nil]
        let status = unsafe posix_spawnp(&child, arguments[0], &actions, &attributes, &argumentVector, &environmentVector)
        unsafe (argumentVector + environmentVector).forEach { unsafe free($0) }
        unsafe posix_spawn_file_actions_destroy(&actions)
        unsafe posix_spawnattr_destroy(&attributes)
        guard status == 0 else { throw .cannotStart(program: arguments[0], code: status) }
        return child
    }
}
