// Which mappings are guest RAM: the file at a given path (whatever way it was named or reached: by inode), QEMU's
// unnamed file in a given directory (qemu_back_mem.ID.XXXXXX, unlinked as soon as made), a memfd of a given name, and
// none below the least size. With a least size alone: every shared mapping of a file on tmpfs or hugetlbfs.

#define _GNU_SOURCE
#include "ShimInternal.h"

#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define TMPFS_MAGIC 0x01021994
#define HUGETLBFS_MAGIC 0x958458f6

static char pattern_text[SHIM_TEXT_BYTES];
static const char *patterns[SHIM_MOST_PATTERNS];
static size_t pattern_count;
static uint64_t least_length;

void shim_match_configure(const char *given, const char *least_bytes) {
    least_length = shim_number("PAGEFERRY_RAM_MIN_BYTES", least_bytes, 0);
    if (given != NULL) {
        if (strlen(given) >= sizeof pattern_text) shim_die("PAGEFERRY_RAM is longer than %zu bytes", sizeof pattern_text - 1);
        strcpy(pattern_text, given);
    }
    // "memfd:NAME" has a colon of its own: it is put together again.
    char *rest = pattern_text;
    while (rest != NULL && *rest != '\0') {
        char *end = strchr(rest + (strncmp(rest, "memfd:", 6) == 0 ? 6 : 0), ':');
        if (end != NULL) *end = '\0';
        if (*rest != '\0') {
            if (pattern_count == SHIM_MOST_PATTERNS) shim_die("PAGEFERRY_RAM has more than %d entries", SHIM_MOST_PATTERNS);
            patterns[pattern_count++] = rest;
        }
        rest = end == NULL ? NULL : end + 1;
    }
    if (pattern_count == 0 && least_length == 0) {
        shim_die("PAGEFERRY_HANDOFF is set, but not which memory to hand over; set PAGEFERRY_RAM to the VMM's mem-path");
    }
}

size_t shim_match_pattern_count(void) { return pattern_count; }

// Whether `link`, a path as /proc shows it, is QEMU's unnamed file directly in `directory`.
static int is_unnamed_in(const char *link, const char *directory) {
    char resolved[PATH_MAX];
    if (realpath(directory, resolved) == NULL) return 0;
    const char *slash = strrchr(link, '/');
    if (slash == NULL || strncmp(slash + 1, "qemu_back_mem.", 14) != 0) return 0;
    size_t length = (size_t)(slash - link);
    if (strcmp(resolved, "/") == 0) return length == 0;
    return strlen(resolved) == length && strncmp(resolved, link, length) == 0;
}

// Whether `link` is the file once at `path`, which was unlinked since.
static int is_deleted(const char *link, const char *path) {
    size_t length = strlen(path);
    return path[0] == '/' && strncmp(link, path, length) == 0 && strcmp(link + length, " (deleted)") == 0;
}

static int matches(const char *pattern, const char *link, const struct stat *status) {
    if (strncmp(pattern, "memfd:", 6) == 0) {
        char name[PATH_MAX];
        if (strncmp(link, "/memfd:", 7) != 0) return 0;
        snprintf(name, sizeof name, "%s", link + 7);
        char *suffix = strstr(name, " (deleted)");
        if (suffix != NULL) *suffix = '\0';
        return fnmatch(pattern + 6, name, 0) == 0;
    }
    struct stat named;
    if (stat(pattern, &named) < 0) return is_deleted(link, pattern);
    if (S_ISDIR(named.st_mode)) return named.st_dev == status->st_dev && is_unnamed_in(link, pattern);
    return named.st_dev == status->st_dev && named.st_ino == status->st_ino;
}

enum shim_match shim_match_file(int file, size_t length) {
    struct stat status;
    if (length < least_length || fstat(file, &status) < 0 || !S_ISREG(status.st_mode)) return SHIM_NO_MATCH;
    if (pattern_count == 0) {
        struct statfs system;
        if (fstatfs(file, &system) < 0) return SHIM_NO_MATCH;
        return system.f_type == TMPFS_MAGIC || system.f_type == HUGETLBFS_MAGIC ? SHIM_MATCH_BY_SIZE : SHIM_NO_MATCH;
    }
    char path[64];
    char link[PATH_MAX];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    ssize_t count = readlink(path, link, sizeof link - 1);
    if (count < 0) shim_die("cannot read %s, which is needed to recognise the guest's RAM; mount /proc", path);
    link[count] = '\0';
    for (size_t index = 0; index < pattern_count; index++) {
        if (matches(patterns[index], link, &status)) return SHIM_MATCH_BY_NAME;
    }
    return SHIM_NO_MATCH;
}
