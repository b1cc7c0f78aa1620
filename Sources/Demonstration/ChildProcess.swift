import Glibc
import PageCore

/// A process started by a demonstration: ended, by its id, at the end of this value's life.
final class ChildProcess: Sendable {
    let processIdentifier: pid_t
    let name: String

    /// Starts a program with this process's environment and standard streams.
    init(_ arguments: [String]) throws(DemonstrationError) {
        name = arguments[0]
        var child: pid_t = 0
        var attributes = posix_spawnattr_t()
        var signals = sigset_t()
        // SAFETY: every structure is local and initialized before it is read; the argument strings are freed after the call.
        unsafe posix_spawnattr_init(&attributes)
        unsafe sigemptyset(&signals)
        unsafe posix_spawnattr_setsigmask(&attributes, &signals)
        unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        var vector = unsafe arguments.map { unsafe strdup($0) } + [nil]
        let status = unsafe posix_spawn(&child, arguments[0], nil, &attributes, &vector, environ)
        for unsafe string in unsafe vector { unsafe free(string) }
        unsafe posix_spawnattr_destroy(&attributes)
        guard status == 0 else { throw DemonstrationError("cannot start \(arguments[0]): error \(status)") }
        processIdentifier = child
    }

    deinit {
        kill(processIdentifier, SIGKILL)
        _ = waitpid(processIdentifier, nil, 0)
    }
}
