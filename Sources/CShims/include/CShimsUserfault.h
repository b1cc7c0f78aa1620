#ifndef PAGEFERRY_CSHIMS_USERFAULT_H
#define PAGEFERRY_CSHIMS_USERFAULT_H

// userfaultfd: every request number is an _IOWR macro and ioctl(2) is variadic; the importer sees neither. What newer
// kernels added is back-ported by number and gated at run time by the feature mask the kernel reports.

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/userfaultfd.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

// Linux 6.8: moves page-table entries within one address space.
#ifndef UFFDIO_MOVE
struct pageferry_uffdio_move {
    __u64 dst;
    __u64 src;
    __u64 len;
    __u64 mode;
    __s64 move;
};
#define PAGEFERRY_UFFDIO_MOVE _IOWR(UFFDIO, 0x05, struct pageferry_uffdio_move)
#else
#define pageferry_uffdio_move uffdio_move
#define PAGEFERRY_UFFDIO_MOVE UFFDIO_MOVE
#endif

// Linux 6.6: marks pages so that touching them raises SIGBUS.
#ifndef UFFDIO_POISON
struct pageferry_uffdio_poison {
    struct uffdio_range range;
    __u64 mode;
    __s64 updated;
};
#define PAGEFERRY_UFFDIO_POISON _IOWR(UFFDIO, 0x08, struct pageferry_uffdio_poison)
#else
#define pageferry_uffdio_poison uffdio_poison
#define PAGEFERRY_UFFDIO_POISON UFFDIO_POISON
#endif

// The message read(2) delivers, flat: the kernel's is a packed struct with a union of anonymous structs, which the
// importer does not lay out. Page fault: flags, address, thread. Fork: descriptor. Remap: from, to, length.
// Remove and unmap: start, end.
struct pageferry_userfault_message {
    uint8_t event;
    uint8_t reserved1;
    uint16_t reserved2;
    uint32_t reserved3;
    uint64_t first;
    uint64_t second;
    uint64_t third;
};
_Static_assert(sizeof(struct pageferry_userfault_message) == sizeof(struct uffd_msg), "same size as the kernel's");
_Static_assert(offsetof(struct pageferry_userfault_message, first) == offsetof(struct uffd_msg, arg), "same payload");

// What an install ioctl answered: `error` is 0 or an errno; `done` the bytes the kernel says it handled, 0 when its
// field held a negated errno, which it does on failure.
struct pageferry_userfault_install {
    int32_t error;
    int64_t done;
};

// The funnel of this header: EINTR retried, errno taken before anything can overwrite it. 0 or more, or -errno.
static inline int pageferry_userfault_ioctl(int descriptor, unsigned long request, void *argument) {
    for (;;) {
        int answer = ioctl(descriptor, request, argument);
        if (answer >= 0) return answer;
        if (errno != EINTR) return -errno;
    }
}

static inline struct pageferry_userfault_install pageferry_userfault_answer(int answer, int64_t done) {
    struct pageferry_userfault_install result = { answer < 0 ? -answer : 0, done > 0 ? done : 0 };
    return result;
}

// syscall(2) is variadic. A descriptor, or -errno.
static inline int pageferry_userfault_open(int flags) {
    long descriptor = syscall(SYS_userfaultfd, (long)flags);
    return descriptor < 0 ? -errno : (int)descriptor;
}

// ioctl(2) is variadic; this request takes the open flags by value. A descriptor, or -errno.
static inline int pageferry_userfault_open_through(int device, int flags) {
    return pageferry_userfault_ioctl(device, USERFAULTFD_IOC_NEW, (void *)(unsigned long)flags);
}

// Asks for `*features`; the kernel answers with all it has.
static inline int pageferry_userfault_handshake(int descriptor, uint64_t *features) {
    struct uffdio_api request = { .api = UFFD_API, .features = *features };
    int answer = pageferry_userfault_ioctl(descriptor, UFFDIO_API, &request);
    *features = request.features;
    return answer;
}

static inline int pageferry_userfault_register(
    int descriptor, uint64_t start, uint64_t length, uint64_t modes, uint64_t *operations
) {
    struct uffdio_register request = { .range = { start, length }, .mode = modes };
    int answer = pageferry_userfault_ioctl(descriptor, UFFDIO_REGISTER, &request);
    *operations = request.ioctls;
    return answer;
}

static inline int pageferry_userfault_unregister(int descriptor, uint64_t start, uint64_t length) {
    struct uffdio_range request = { start, length };
    return pageferry_userfault_ioctl(descriptor, UFFDIO_UNREGISTER, &request);
}

static inline int pageferry_userfault_wake(int descriptor, uint64_t start, uint64_t length) {
    struct uffdio_range request = { start, length };
    return pageferry_userfault_ioctl(descriptor, UFFDIO_WAKE, &request);
}

static inline struct pageferry_userfault_install pageferry_userfault_continue(
    int descriptor, uint64_t start, uint64_t length
) {
    struct uffdio_continue request = { .range = { start, length } };
    int answer = pageferry_userfault_ioctl(descriptor, UFFDIO_CONTINUE, &request);
    return pageferry_userfault_answer(answer, request.mapped);
}

static inline struct pageferry_userfault_install pageferry_userfault_copy(
    int descriptor, uint64_t destination, uint64_t source, uint64_t length
) {
    struct uffdio_copy request = { .dst = destination, .src = source, .len = length };
    int answer = pageferry_userfault_ioctl(descriptor, UFFDIO_COPY, &request);
    return pageferry_userfault_answer(answer, request.copy);
}

static inline struct pageferry_userfault_install pageferry_userfault_move(
    int descriptor, uint64_t destination, uint64_t source, uint64_t length
) {
    struct pageferry_uffdio_move request = { .dst = destination, .src = source, .len = length };
    int answer = pageferry_userfault_ioctl(descriptor, PAGEFERRY_UFFDIO_MOVE, &request);
    return pageferry_userfault_answer(answer, request.move);
}

static inline struct pageferry_userfault_install pageferry_userfault_zero(
    int descriptor, uint64_t start, uint64_t length
) {
    struct uffdio_zeropage request = { .range = { start, length } };
    int answer = pageferry_userfault_ioctl(descriptor, UFFDIO_ZEROPAGE, &request);
    return pageferry_userfault_answer(answer, request.zeropage);
}

static inline struct pageferry_userfault_install pageferry_userfault_poison(
    int descriptor, uint64_t start, uint64_t length
) {
    struct pageferry_uffdio_poison request = { .range = { start, length } };
    int answer = pageferry_userfault_ioctl(descriptor, PAGEFERRY_UFFDIO_POISON, &request);
    return pageferry_userfault_answer(answer, request.updated);
}

// fcntl(2) is variadic. Sets O_NONBLOCK and FD_CLOEXEC; 0 or -errno.
static inline int pageferry_userfault_set_flags(int descriptor) {
    int status = fcntl(descriptor, F_GETFL);
    if (status < 0) return -errno;
    if (!(status & O_NONBLOCK) && fcntl(descriptor, F_SETFL, status | O_NONBLOCK) < 0) return -errno;
    return fcntl(descriptor, F_SETFD, FD_CLOEXEC) < 0 ? -errno : 0;
}

#endif
