/// Why a ring could not be made or used.
public enum UringError: Error, Sendable, Hashable {
    /// The kernel was built without io_uring, or a filter hides it (ENOSYS).
    case missing
    /// The kernel refuses io_uring to this process; `disabledSetting` is `kernel.io_uring_disabled`, nil when unreadable.
    case forbidden(disabledSetting: Int?)
    /// Not enough memory or descriptors for a ring.
    case noResources(errno: Int32)
    /// The ring could not be set up for another reason.
    case setUpFailed(errno: Int32)
    /// The submission queue stayed full.
    case queueFull
    /// The kernel refused a submission or a wait.
    case submitFailed(errno: Int32)
    /// Another thread used the ring first and owns it.
    case wrongThread
}

extension UringError {
    /// The kernel's error number behind the error.
    public var errorNumber: Int32 {
        switch self {
        case .missing: 38
        case .forbidden: 1
        case .noResources(let number), .setUpFailed(let number), .submitFailed(let number): number
        case .queueFull: 16
        case .wrongThread: 17
        }
    }
}

extension UringError: CustomStringConvertible {
    public var description: String {
        switch self {
        case .missing:
            "io_uring is not available: the kernel lacks it (Linux 6.1 or later is needed) or a seccomp filter hides it; run on the host or allow io_uring in the container's seccomp profile"
        case .forbidden(.some(let setting)) where setting != 0:
            "io_uring is not available: kernel.io_uring_disabled is \(setting); set it to 0 with `sysctl kernel.io_uring_disabled=0`, or run with CAP_SYS_ADMIN if it is 1"
        case .forbidden:
            "io_uring is not available: a seccomp filter or security policy forbids it; allow io_uring_setup, io_uring_enter and io_uring_register for this process"
        case .noResources(let number):
            "no memory or descriptors for an io_uring (errno \(number)); raise RLIMIT_MEMLOCK (ulimit -l) or RLIMIT_NOFILE (ulimit -n)"
        case .setUpFailed(let number):
            "an io_uring could not be set up (errno \(number)); Linux 6.1 or later is needed"
        case .queueFull:
            "the io_uring submission queue stayed full; more operations were queued than it was made for"
        case .submitFailed(let number):
            "the io_uring refused a submission (errno \(number)); this is a defect or a kernel out of memory, please report it"
        case .wrongThread:
            "an io_uring was used by a second thread; the thread that uses it first must stay the only one"
        }
    }
}
