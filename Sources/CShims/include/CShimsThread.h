#ifndef PAGEFERRY_CSHIMS_THREAD_H
#define PAGEFERRY_CSHIMS_THREAD_H

// Swift's Glibc module does not cover <sys/eventfd.h>.
#include <sys/eventfd.h>
#include <sys/prctl.h>

// prctl is variadic, which the importer does not call.
static inline int CShims_setThreadName(const char *name) {
    return prctl(PR_SET_NAME, (unsigned long)name, 0UL, 0UL, 0UL);
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
