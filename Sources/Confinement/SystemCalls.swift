import CSeccomp
import Glibc

/// The system calls that a daemon needs once it serves.
enum SystemCalls {
    struct Condition {
        var name: String
        /// Which argument, from 0; `(argument & mask) == value` allows the call.
        var argument: UInt32
        var mask: UInt64
        var value: UInt64
    }

    static let allowed = memory + files + sockets + waiting + threads + processes

    private static let memory = [
        "brk", "fadvise64", "madvise", "membarrier", "memfd_create", "mincore", "mlock", "mlock2", "mremap", "msync", "munlock", "munmap",
    ]

    private static let files = [
        "access", "chmod", "chown", "close", "close_range", "copy_file_range", "dup", "dup2", "dup3", "faccessat", "faccessat2",
        "fallocate",
        "fchmod", "fchmodat", "fchown", "fcntl", "fdatasync", "fgetxattr", "flock", "fsetxattr", "fstat", "fstatfs", "fsync", "ftruncate",
        "getcwd", "getdents64", "getxattr", "lgetxattr", "link", "linkat", "lseek", "lstat", "mkdir", "mkdirat", "newfstatat", "open",
        "openat",
        "pipe", "pipe2", "pread64", "preadv", "pwrite64", "pwritev", "read", "readlink", "readlinkat", "readv", "rename", "renameat",
        "renameat2", "rmdir", "stat", "statfs", "statx", "umask", "unlink", "unlinkat", "utimensat", "write", "writev",
    ]

    private static let sockets = [
        "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "recvfrom", "recvmmsg", "recvmsg",
        "sendmmsg", "sendmsg", "sendto", "setsockopt", "shutdown", "socketpair",
    ]

    private static let waiting = [
        "clock_getres", "clock_gettime", "clock_nanosleep", "epoll_create1", "epoll_ctl", "epoll_pwait", "epoll_pwait2", "epoll_wait",
        "eventfd2", "futex", "futex_waitv", "gettimeofday", "io_uring_enter", "io_uring_register", "io_uring_setup", "nanosleep", "poll",
        "ppoll", "pselect6", "restart_syscall", "select", "time", "timerfd_create", "timerfd_gettime", "timerfd_settime",
    ]

    private static let threads = [
        "exit", "exit_group", "get_robust_list", "getcpu", "gettid", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask",
        "rt_sigreturn",
        "rt_sigsuspend", "rt_sigtimedwait", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getparam",
        "sched_getscheduler", "sched_setaffinity", "sched_yield", "set_robust_list", "set_tid_address", "sigaltstack", "tgkill",
    ]

    /// Of its own QEMU too: it is waited for, and ended with its daemon.
    private static let processes = [
        "getegid", "geteuid", "getgid", "getpgrp", "getpid", "getppid", "getpriority", "getrandom", "getresgid", "getresuid", "getrlimit",
        "getrusage", "getuid", "kill", "pidfd_open", "pidfd_send_signal", "prlimit64", "sysinfo", "times", "uname", "wait4", "waitid",
    ]

    static let conditional =
        [
            // Threads of this process, no other process.
            Condition(name: "clone", argument: 0, mask: UInt64(PAGEFERRY_CLONE_THREAD), value: UInt64(PAGEFERRY_CLONE_THREAD)),
            // Memory, no code.
            Condition(name: "mmap", argument: 2, mask: UInt64(PROT_EXEC), value: 0),
            Condition(name: "mprotect", argument: 2, mask: UInt64(PROT_EXEC), value: 0),
            Condition(name: "prctl", argument: 0, mask: .max, value: UInt64(PAGEFERRY_PR_SET_NAME)),
            Condition(name: "prctl", argument: 0, mask: .max, value: UInt64(PAGEFERRY_PR_SET_TIMERSLACK)),
        ]
        + [AF_UNIX, AF_INET, AF_INET6, AF_NETLINK].map { Condition(name: "socket", argument: 0, mask: .max, value: UInt64($0)) }
        // ioctl(2) by the kind in its second byte: userfaultfd, RDMA, the network's interfaces; of terminals and descriptors only
        // what asks.
        + [0xAA00, 0x1B00, 0x8900].map { Condition(name: "ioctl", argument: 1, mask: 0xFF00, value: $0) }
        + [UInt64(TCGETS), UInt64(TIOCGWINSZ), UInt64(FIONBIO), UInt64(FIONREAD)].map {
            Condition(name: "ioctl", argument: 1, mask: 0xFFFF_FFFF, value: $0)
        }
}
