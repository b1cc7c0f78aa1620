#ifndef PAGEFERRY_CSHIMS_THREAD_H
#define PAGEFERRY_CSHIMS_THREAD_H

// Swift's Glibc module does not cover <sys/eventfd.h>.
#include <sys/eventfd.h>
#include <sys/prctl.h>

// prctl is variadic, which the importer does not call.
static inline int CShims_setThreadName(const char *name) {
    return prctl(PR_SET_NAME, (unsigned long)name, 0UL, 0UL, 0UL);
}

// The affinity calls and cpu_set_t are under _GNU_SOURCE; syscall is variadic. Of the calling thread, 1024 processors, a bit
// each in 16 words. 0 or -1.
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>
static inline int CShims_affinity(uint64_t *words) {
    return syscall(SYS_sched_getaffinity, 0L, 128L, words) < 0 ? -1 : 0;
}
static inline int CShims_setAffinity(const uint64_t *words) {
    return syscall(SYS_sched_setaffinity, 0L, 128L, words) < 0 ? -1 : 0;
}

// fcntl is variadic.
#include <fcntl.h>
static inline int CShims_descriptorFlags(int descriptor) {
    return fcntl(descriptor, F_GETFL);
}
static inline int CShims_setDescriptorFlags(int descriptor, int flags) {
    return fcntl(descriptor, F_SETFL, flags);
}

#endif
