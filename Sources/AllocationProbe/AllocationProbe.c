// Interposes the allocator's entrances. In C because a preload library must not carry a runtime of its own.
#define _GNU_SOURCE
#include "AllocationProbe.h"

#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>

// glibc's own entrances, which need no look-up that would itself allocate.
extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *memory, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);

static _Atomic uint64_t counts[2];

static void count(void) {
    atomic_fetch_add_explicit(&counts[0], 1, memory_order_relaxed);
    char name[16] = "";
    prctl(PR_GET_NAME, name, 0, 0, 0);
    if (strncmp(name, "fault-shard", 11) == 0 || strncmp(name, "source-shard", 12) == 0)
        atomic_fetch_add_explicit(&counts[1], 1, memory_order_relaxed);
}

#define EXPORTED __attribute__((visibility("default")))

EXPORTED uint64_t pageferry_allocation_count(int which) {
    return atomic_load_explicit(&counts[which != 0], memory_order_relaxed);
}

EXPORTED void *malloc(size_t size) {
    count();
    return __libc_malloc(size);
}

EXPORTED void *calloc(size_t number, size_t size) {
    count();
    return __libc_calloc(number, size);
}

EXPORTED void *realloc(void *memory, size_t size) {
    count();
    return __libc_realloc(memory, size);
}

EXPORTED void *memalign(size_t alignment, size_t size) {
    count();
    return __libc_memalign(alignment, size);
}

EXPORTED void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

EXPORTED int posix_memalign(void **memory, size_t alignment, size_t size) {
    *memory = memalign(alignment, size);
    return *memory == NULL ? ENOMEM : 0;
}
