#ifndef PAGEFERRY_CSHIMS_URING_H
#define PAGEFERRY_CSHIMS_URING_H

// liburing.h defines _XOPEN_SOURCE 500, which narrows what later system headers declare and clashes with Swift's
// Glibc module. <features.h> first fixes the feature macros before that definition is seen.
#include <features.h>
#include <liburing.h>

// Numbers of the kernel's interface that liburing 2.3 does not carry yet; whether the running kernel knows them is
// found out at run time.
#ifndef IORING_SEND_ZC_REPORT_USAGE
#define IORING_SEND_ZC_REPORT_USAGE (1U << 3)
#endif
#ifndef IORING_NOTIF_USAGE_ZC_COPIED
#define IORING_NOTIF_USAGE_ZC_COPIED (1U << 31)
#endif

// IOSQE_* are shifts by enumerators, which the importer does not evaluate.
static const uint8_t CShimsUring_linkNext = IOSQE_IO_LINK;

// struct io_uring_cqe ends in a flexible array; this is its fixed part, copied out.
struct CShimsUringCompletion {
    uint64_t token;
    int32_t result;
    uint32_t flags;
};

// The completion ring's indices need acquire and release order, which liburing has as macros only.
static inline unsigned CShimsUring_takeCompletions(struct io_uring *ring, struct CShimsUringCompletion *into, unsigned capacity) {
    unsigned head = *ring->cq.khead;
    unsigned count = io_uring_smp_load_acquire(ring->cq.ktail) - head;
    if (count > capacity)
        count = capacity;
    for (unsigned index = 0; index < count; index++) {
        const struct io_uring_cqe *entry = &ring->cq.cqes[(head + index) & ring->cq.ring_mask];
        into[index].token = entry->user_data;
        into[index].result = entry->res;
        into[index].flags = entry->flags;
    }
    io_uring_cq_advance(ring, count);
    return count;
}

// True when a system call would bring completions: deferred task work waits, or completions overflowed.
static inline bool CShimsUring_needsEnter(const struct io_uring *ring) {
    return IO_URING_READ_ONCE(*ring->sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

// A hint to the processor inside a spin loop: an instruction, not a function.
static inline void CShimsUring_relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
