#ifndef PAGEFERRY_CSHIMS_MEMORY_H
#define PAGEFERRY_CSHIMS_MEMORY_H

// Mappings and memory files: constants and calls glibc declares only under _GNU_SOURCE, which Swift's Glibc module
// does not define, and macros made of casts and shifts, which the importer does not see.

#include <errno.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#define PAGEFERRY_HUGETLBFS_MAGIC 0x958458f6L
#define PAGEFERRY_TMPFS_MAGIC 0x01021994L

// MADV_POPULATE_WRITE, Linux 5.14.
#define PAGEFERRY_MADVISE_POPULATE_WRITE 23
// MADV_DONTNEED and MADV_HUGEPAGE, hidden without _DEFAULT_SOURCE.
#define PAGEFERRY_MADVISE_DONTNEED 4
#define PAGEFERRY_MADVISE_HUGEPAGE 14

// MFD_CLOEXEC; MFD_HUGETLB (4) with log2 of 2 MiB in MFD_HUGE_SHIFT's place (21 << 26).
#define PAGEFERRY_MEMFD_CLOEXEC 0x0001u
#define PAGEFERRY_MEMFD_HUGETLB_2MIB 0x54000004u

// MAP_ANONYMOUS | MAP_PRIVATE; MAP_HUGETLB with log2 of 2 MiB in MAP_HUGE_SHIFT's place (21 << 26).
#define PAGEFERRY_MAP_ANONYMOUS_PRIVATE 0x22
#define PAGEFERRY_MAP_HUGETLB_2MIB 0x54040000

// SEEK_DATA and SEEK_HOLE, under _GNU_SOURCE.
#define PAGEFERRY_SEEK_DATA 3
#define PAGEFERRY_SEEK_HOLE 4

// FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE.
#define PAGEFERRY_PUNCH_HOLE 0x03

// memfd_create(2) and fallocate(2) are under _GNU_SOURCE; syscall(2) is variadic. A descriptor, or -errno.
static inline int pageferry_memfd_create(const char *name, unsigned flags) {
    long descriptor = syscall(SYS_memfd_create, name, (unsigned long)flags);
    return descriptor < 0 ? -errno : (int)descriptor;
}

static inline int pageferry_fallocate(int descriptor, int mode, int64_t offset, int64_t length) {
    for (;;) {
        if (syscall(SYS_fallocate, (long)descriptor, (long)mode, (long)offset, (long)length) == 0) return 0;
        if (errno != EINTR) return -errno;
    }
}

// The type and block size of the file system `descriptor` lies on: struct statfs has a union the importer renames.
// On hugetlbfs the block size is the huge page's. 0 or -errno.
static inline int pageferry_file_system(int descriptor, int64_t *type, int64_t *block_size) {
    struct statfs status;
    while (fstatfs(descriptor, &status) < 0) {
        if (errno != EINTR) return -errno;
    }
    *type = (int64_t)status.f_type;
    *block_size = (int64_t)status.f_bsize;
    return 0;
}

#endif
