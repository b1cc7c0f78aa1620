import Foundation
import Glibc
import PageCore
import Synchronization

/// A process started by a demonstration: ended, by its id, at the end of this value's life.
package final class ChildProcess: Sendable {
    package let processIdentifier: pid_t
    private let exitCode = Mutex<Int32?>(nil)
    private let usedNanoseconds = Mutex<UInt64>(0)
    /// Those not yet reaped, for a program that is told to stop in the middle.
    private static let running = Mutex<Set<pid_t>>([])

    /// Starts a program.
    ///
    /// - Parameters:
    ///   - inheriting: descriptors of this process, by the numbers they have in the new one.
    ///   - outputPath: where its output and error output go; nil leaves them with this process's.
    ///   - environment: what is added to this process's environment.
    package init(
        _ arguments: [String], inheriting: [Int32: Int32] = [:], environment: [String: String] = [:],
        outputPath: String? = nil
    ) throws(DemonstrationError) {
        var child: pid_t = 0
        var attributes = posix_spawnattr_t()
        var actions = unsafe posix_spawn_file_actions_t()
        var signals = sigset_t()
        // SAFETY: every structure is local and initialized before it is read; strings are freed after the call.
        unsafe posix_spawnattr_init(&attributes)
        unsafe posix_spawn_file_actions_init(&actions)
        for (number, descriptor) in inheriting { unsafe posix_spawn_file_actions_adddup2(&actions, descriptor, number) }
        if let outputPath {
            unsafe posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, outputPath, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
            unsafe posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO)
        }
        unsafe sigemptyset(&signals)
        unsafe posix_spawnattr_setsigmask(&attributes, &signals)
        unsafe posix_spawnattr_setflags(&attributes, Int16(POSIX_SPAWN_SETSIGMASK))
        let merged = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        var argumentVector = unsafe arguments.map { unsafe strdup($0) } + [nil]
        var environmentVector = unsafe merged.map { unsafe strdup("\($0.key)=\($0.value)") } + [nil]
        let status = unsafe posix_spawnp(&child, arguments[0], &actions, &attributes, &argumentVector, &environmentVector)
        unsafe (argumentVector + environmentVector).forEach { unsafe free($0) }
        unsafe posix_spawn_file_actions_destroy(&actions)
        unsafe posix_spawnattr_destroy(&attributes)
        guard status == 0 else { throw DemonstrationError("cannot start \(arguments[0]): error \(status)") }
        processIdentifier = child
        _ = Self.running.withLock { $0.insert(child) }
    }

    deinit { end() }

    /// Waits for the process's own end.
    ///
    /// - Returns: its exit code, or 128 and its signal; nil when it still runs at the deadline.
    package func waitForEnd(timeoutNanoseconds: UInt64) -> Int32? {
        let deadline = MonotonicClock.nowNanoseconds() + timeoutNanoseconds
        while true {
            if let code = reap(WNOHANG) { return code }
            if MonotonicClock.nowNanoseconds() >= deadline { return nil }
            _ = poll(nil, 0, 5)
        }
    }

    /// Processor time of the process, and of children it waited for, once it has ended.
    package var processorNanoseconds: UInt64 { usedNanoseconds.withLock { $0 } }

    /// Ends the process at once.
    package func end() {
        guard exitCode.withLock({ $0 }) == nil else { return }
        kill(processIdentifier, SIGKILL)
        _ = reap(0)
    }

    /// Ends every process started here that has not ended: on the way out, when nothing else will.
    package static func endAll() {
        running.withLock { running in
            for process in running { kill(process, SIGKILL) }
        }
    }

    private func reap(_ options: Int32) -> Int32? {
        exitCode.withLock { code in
            if code == nil {
                var status: Int32 = 0
                var usage = rusage()
                // SAFETY: a local integer and a local structure, filled during the call.
                if unsafe wait4(processIdentifier, &status, options, &usage) == processIdentifier {
                    let seconds = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
                    let microseconds = seconds * 1_000_000 + Int(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec)
                    usedNanoseconds.withLock { $0 = UInt64(microseconds) * 1_000 }
                    _ = Self.running.withLock { $0.remove(processIdentifier) }
                    code = status & 0x7F == 0 ? (status >> 8) & 0xFF : 128 + (status & 0x7F)
                }
            }
            return code
        }
    }
}
