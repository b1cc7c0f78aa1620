#ifndef PAGEFERRY_CSHIMS_PROCESS_H
#define PAGEFERRY_CSHIMS_PROCESS_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// pidfd_open(2) has no wrapper in glibc 2.36, and syscall is variadic. A close-on-exec descriptor, or -errno.
static inline int pageferry_pidfd_open(int process) {
    long descriptor = syscall(SYS_pidfd_open, (long)process, 0L);
    return descriptor < 0 ? -errno : (int)descriptor;
}

// pidfd_send_signal(2), as above: 0 or -errno.
static inline int pageferry_pidfd_signal(int descriptor, int number) {
    return syscall(SYS_pidfd_send_signal, (long)descriptor, (long)number, NULL, 0L) < 0 ? -errno : 0;
}

// pidfd_getfd(2), as above: a close-on-exec copy of a descriptor of another process, or -errno.
static inline int pageferry_pidfd_getfd(int process, int number) {
    long descriptor = syscall(SYS_pidfd_getfd, (long)process, (long)number, 0L);
    return descriptor < 0 ? -errno : (int)descriptor;
}

// prctl(2) is variadic. What descendants leave running when they end becomes a child of this process.
static inline int pageferry_adopt_orphans(void) { return prctl(PR_SET_CHILD_SUBREAPER, 1L, 0L, 0L, 0L); }

// The W* macros of <sys/wait.h>: an exit code, or 128 and the signal as a shell has it.
static inline int pageferry_exit_code(int status) {
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

// POSIX_SPAWN_SETSID is under _GNU_SOURCE.
#define PAGEFERRY_SPAWN_SETSID 0x80

// pipe2(2) is under _GNU_SOURCE, and a pipe must be close-on-exec from the start: another thread may spawn meanwhile.
static inline int pageferry_pipe(int *ends) { return (int)syscall(SYS_pipe2, ends, O_CLOEXEC); }

#endif
