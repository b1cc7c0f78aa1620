import Glibc
import PageCore

/// Why a process's memory cannot be served, or cannot be any longer.
public enum ProcessMemoryError: Error, Sendable, Hashable {
    case noProcess(Int32)
    /// It has ended, or is about to: its memory is gone.
    case ended(Int32)
    /// The kernel keeps its memory from this user; with the value of /proc/sys/kernel/yama/ptrace_scope where there is one.
    case notPermitted(Int32, ptraceScope: Int?)
    /// A thread of it may run; with the letter that proc(5) gives its state.
    case notStopped(Int32, thread: Int32, state: Character)
    /// It ran after it had been found stopped: what its memory holds now is not what it held.
    case ran(Int32)
    /// The kernel does not count how often a thread runs (CONFIG_SCHED_INFO): that one ran unnoticed could not be told.
    case runsNotCounted(Int32)
    /// A userfaultfd stands behind memory of it: what is missing there is not zero, and somebody else's to bring.
    case pagedByAnother(Int32, addresses: Range<UInt>)
    /// No memory that can be served.
    case nothingToServe(Int32)
    /// It has more runs of memory than a session has regions.
    case tooManyRegions(Int32, count: Int)
    /// A line of /proc/PID/smaps that is none.
    case malformedMapping(line: String)
    /// Memory that its mappings name cannot be read there.
    case unreadable(Int32, address: UInt, code: Int32)
    /// A call on the process's files in /proc failed.
    case systemCall(name: String, code: Int32)
    case memory(String)
}

extension ProcessMemoryError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .noProcess(let process): "there is no process \(process); give the id of one that is stopped"
        case .ended(let process): "process \(process) has ended, and its memory with it"
        case .notPermitted(let process, let scope):
            "the memory of process \(process) is kept from this user: run as its user, or with CAP_SYS_PTRACE"
                + (scope.map { $0 > 0 ? "; /proc/sys/kernel/yama/ptrace_scope is \($0), which wants CAP_SYS_PTRACE (0 does not)" : "" }
                    ?? "")
        case .notStopped(let process, let thread, let state):
            "process \(process) is not stopped: its thread \(thread) is in state \(state); stop it (kill -STOP \(process), or freeze its cgroup) and keep it so until its pages are served"
        case .ran(let process):
            "process \(process) ran again before all its pages were served: its memory is not what it was; stop it and start over"
        case .runsNotCounted(let process):
            "this kernel does not count how often the threads of process \(process) run (CONFIG_SCHED_INFO), so it could run unnoticed; use one that does"
        case .pagedByAnother(let process, let addresses):
            "the memory \(addresses.hexadecimal) of process \(process) is registered with a userfaultfd: what is missing there cannot be told from zeros; wait until its pager has finished"
        case .nothingToServe(let process): "process \(process) has no memory of its own to serve (a kernel thread, or one that is ending)"
        case .tooManyRegions(let process, let count):
            "process \(process) has \(count) separate runs of memory; at most \(RegionLayout.mostRegions) are supported in one session"
        case .malformedMapping(let line): "the kernel describes a mapping in a way this version does not know: '\(line.withoutControls)'"
        case .unreadable(let process, let address, let code):
            "the memory of process \(process) at \(String(address, radix: 16)) cannot be read: \(text(of: code))"
        case .systemCall(let name, let code): "\(name) failed: \(text(of: code))"
        case .memory(let text): text
        }
    }
}

extension Range where Bound == UInt {
    /// As proc(5) writes addresses.
    var hexadecimal: String { "\(String(lowerBound, radix: 16))-\(String(upperBound, radix: 16))" }
}

/// The system's text for an errno. Allocates; for messages only.
private func text(of code: Int32) -> String {
    // SAFETY: glibc's strerror returns a terminated string, kept for this thread until its next call.
    unsafe String(cString: strerror(code))
}
