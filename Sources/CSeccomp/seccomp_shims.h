// libseccomp 2.5 (libseccomp-dev), as far as Confinement uses it; its actions and its variadic rules are macros and C alone.
#ifndef PAGEFERRY_SECCOMP_SHIMS_H
#define PAGEFERRY_SECCOMP_SHIMS_H
#include <dlfcn.h>
#include <errno.h>
#include <sched.h>
#include <seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <unistd.h>

static inline uint32_t pageferry_seccomp_allow(void) { return SCMP_ACT_ALLOW; }
static inline uint32_t pageferry_seccomp_error(uint16_t code) { return SCMP_ACT_ERRNO(code); }

enum {
    PAGEFERRY_CLONE_THREAD = 0x00010000, // linux/sched.h; glibc shows it to GNU sources alone
    PAGEFERRY_PR_SET_NAME = PR_SET_NAME,
    PAGEFERRY_PR_SET_TIMERSLACK = PR_SET_TIMERSLACK,
};

// Whether this program was built with the address or the thread sanitizer: these trace and copy their own process.
static inline int pageferry_is_sanitized(void) {
    return dlsym(NULL, "__asan_init") != NULL || dlsym(NULL, "__tsan_init") != NULL;
}

// A system call by its number: syscall(2) is variadic. -1 and errno when it fails.
static inline long pageferry_system_call(int call, long first, long second, long third) {
    return syscall(call, first, second, third, 0L, 0L, 0L);
}

// A rule without conditions, and one about an argument: (argument & mask) == value.
static inline int pageferry_seccomp_rule(scmp_filter_ctx filter, uint32_t action, int call) {
    return seccomp_rule_add(filter, action, call, 0);
}

static inline int pageferry_seccomp_rule_masked(
    scmp_filter_ctx filter, uint32_t action, int call, unsigned int argument, uint64_t mask, uint64_t value
) {
    return seccomp_rule_add(filter, action, call, 1, SCMP_CMP(argument, SCMP_CMP_MASKED_EQ, mask, value));
}

#endif
