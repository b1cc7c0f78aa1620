import CSeccomp
import Glibc

/// A seccomp filter over this whole process, for a daemon whose set-up is over (seccomp(2), libseccomp).
///
/// What a daemon needs from then on stays: memory without execution, files, sockets of the families it speaks, threads,
/// io_uring, the requests of userfaultfd and RDMA. Everything else answers EPERM: no program is started, no process is traced or
/// copied, no code is mapped, nothing is mounted, no other kernel interface is opened.
///
/// What io_uring does for a process the kernel does not show to the filter (io_uring_setup(2)): files and sockets can be opened
/// through a ring. Units and containers bound that.
public enum SystemCallFilter {
    /// Begins the filter for every thread, those to come included; it has no end. Also sets no_new_privs.
    ///
    /// - Returns: false under a sanitizer, which needs what the filter forbids: nothing is filtered then.
    @discardableResult
    public static func begin() throws(ConfinementError) -> Bool {
        guard pageferry_is_sanitized() == 0 else { return false }
        guard let filter = unsafe seccomp_init(pageferry_seccomp_error(UInt16(EPERM))) else { throw .unavailable(code: ENOMEM) }
        // SAFETY: here and below: the filter is libseccomp's own, alive until released here; names are terminated literals.
        defer { unsafe seccomp_release(filter) }
        unsafe try attempt(seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1))
        let allow = pageferry_seccomp_allow()
        for name in SystemCalls.allowed {
            try add(name) { call in unsafe pageferry_seccomp_rule(filter, allow, call) }
        }
        for rule in SystemCalls.conditional {
            try add(rule.name) { call in
                unsafe pageferry_seccomp_rule_masked(filter, allow, call, rule.argument, rule.mask, rule.value)
            }
        }
        // Its flags lie behind a pointer, which no filter follows: the C library falls back to clone(2).
        try add("clone3") { call in unsafe pageferry_seccomp_rule(filter, pageferry_seccomp_error(UInt16(ENOSYS)), call) }
        unsafe try attempt(seccomp_load(filter))
        return true
    }

    /// Names that this architecture, or this libseccomp, does not know have no number: nothing is to be allowed.
    private static func add(_ name: String, _ body: (Int32) -> Int32) throws(ConfinementError) {
        let call = unsafe seccomp_syscall_resolve_name(name)
        guard call >= 0 else { return }
        try attempt(body(call))
    }

    private static func attempt(_ answer: Int32) throws(ConfinementError) {
        guard answer == 0 else { throw .unavailable(code: -answer) }
    }
}

public enum ConfinementError: Error, CustomStringConvertible {
    /// With an error number.
    case unavailable(code: Int32)

    public var description: String {
        switch self {
        case .unavailable(let code):
            // SAFETY: strerror gives a terminated text, copied at once.
            "the system calls of this process cannot be filtered: \(unsafe String(cString: strerror(code))); --no-confine goes without"
        }
    }
}
