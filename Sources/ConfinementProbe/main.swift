import CSeccomp
import Confinement
import Glibc

// Begins the filter and tries what a taken-over daemon would, then what a daemon needs: one line each, `name errno`, 0 where
// the kernel let it. For Tests/ConfinementTests: a filter has no end, so no test can begin it in its own process.

/// What `body`, which fails with -1, left in errno.
func show(_ name: String, _ body: () -> Int) {
    errno = 0
    let answer = body()
    print("\(name) \(answer == -1 ? errno : 0)")
}

/// A thread's body.
nonisolated func nothing(_: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? { nil }

/// A system call by its name.
func call(_ name: String, _ first: Int, _ second: Int) {
    let number = unsafe seccomp_syscall_resolve_name(name)
    show(name) { pageferry_system_call(number, first, second, 0) }
}

do throws(ConfinementError) {
    guard try SystemCallFilter.begin() else {
        print("sanitized 0")
        exit(0)
    }
} catch {
    print(error.description)
    exit(1)
}
// SAFETY: paths and arguments are terminated literals and local variables, alive for the calls.
show("execve") {
    var arguments: [UnsafeMutablePointer<CChar>?] = unsafe [nil]
    return Int(unsafe execv("/bin/true", &arguments))
}
show("spawn") {
    var process: pid_t = 0
    var arguments: [UnsafeMutablePointer<CChar>?] = unsafe [nil]
    let status = unsafe posix_spawn(&process, "/bin/true", nil, nil, &arguments, nil)
    errno = status
    return status == 0 ? 0 : -1
}
show("executable mapping") { unsafe mmap(nil, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0 }
show("packet socket") { Int(socket(17, 3, 0)) }
show("mount") { Int(unsafe mount("none", "/nowhere", "tmpfs", 0, nil)) }
for name in ["fork", "ptrace", "process_vm_readv", "bpf", "userfaultfd", "unshare", "pidfd_getfd", "setns"] { call(name, 0, 0) }
// TIOCSTI types into the terminal that the operator uses next.
call("ioctl", 0, 0x5412)

show("thread") {
    var thread = pthread_t()
    errno = unsafe pthread_create(&thread, nil, nothing, nil)
    guard errno == 0 else { return -1 }
    return Int(pthread_join(thread, nil))
}
show("memory") { unsafe mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED ? -1 : 0 }
show("stream socket") { Int(socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)) }
show("file") { Int(unsafe open("/proc/self/status", O_RDONLY)) }
