// Hands an unmodified VMM's RAM to the page daemon: interposes mmap, and when the VMM maps its RAM file, registers the
// mapping with a userfaultfd and passes both on before the VMM can touch a byte. When that fails the VMM ends: it must
// never run on memory that reads as zeros.

#define _GNU_SOURCE
#include "PreloadShim.h"
#include "ShimInternal.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

// Set by the constructor; until then, and without configuration, every call passes through.
static int enabled;
static uint32_t expected_count;
// Whether the operator has said how many mappings make the RAM, so that what comes later is no part of it.
static int is_count_given;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
// Guarded by the lock.
static uint32_t handed_over_count;
static pid_t handed_over_by;
// The hand-off itself must not be interposed. initial-exec: reaching it never allocates.
static __thread int inside __attribute__((tls_model("initial-exec")));

void *mmap(void *address, size_t length, int protection, int flags, int file, off_t offset)
    __attribute__((visibility("default")));
void *mmap64(void *address, size_t length, int protection, int flags, int file, off64_t offset)
    __attribute__((visibility("default")));

_Noreturn void shim_die(const char *format, ...) {
    char line[SHIM_TEXT_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = snprintf(line, sizeof line, "pageferry-preload: ");
    length += vsnprintf(line + length, sizeof line - (size_t)length - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof line - 2) length = (int)sizeof line - 2;
    line[length++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, (size_t)length);
    (void)ignored;
    _exit(SHIM_EXIT_CODE);
}

uint64_t shim_number(const char *variable, const char *text, uint64_t absent) {
    if (text == NULL) return absent;
    char *end;
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || text[0] == '-') {
        shim_die("%s='%s' is no number; give a plain decimal number", variable, text);
    }
    return number;
}

// Removes this library from LD_PRELOAD, keeping what else is there, and all its variables: helpers that the VMM starts
// are none of its business. At the first hand-over and not when loaded, so that a wrapper (sh -c, ip netns exec,
// taskset) passes them on to the VMM: without them it would run on zeros.
static void leave_environment(void) {
    static const char *const variables[] = {
        "PAGEFERRY_HANDOFF", "PAGEFERRY_RAM", "PAGEFERRY_RAM_MIN_BYTES", "PAGEFERRY_RAM_COUNT",
        "PAGEFERRY_HANDOFF_TIMEOUT_SECONDS", "PAGEFERRY_USERFAULTFD_DEVICE",
    };
    for (size_t index = 0; index < sizeof variables / sizeof *variables; index++) unsetenv(variables[index]);
    const char *preload = getenv("LD_PRELOAD");
    if (preload == NULL) return;
    char kept[SHIM_TEXT_BYTES] = "";
    char copy[SHIM_TEXT_BYTES];
    if (strlen(preload) >= sizeof copy) {
        unsetenv("LD_PRELOAD");
        return;
    }
    strcpy(copy, preload);
    char *state = NULL;
    for (char *entry = strtok_r(copy, ": ", &state); entry != NULL; entry = strtok_r(NULL, ": ", &state)) {
        if (strstr(entry, "pageferry-preload") != NULL) continue;
        if (kept[0] != '\0') strcat(kept, ":");
        strcat(kept, entry);
    }
    if (kept[0] == '\0') unsetenv("LD_PRELOAD");
    else setenv("LD_PRELOAD", kept, 1);
}

__attribute__((constructor)) static void configure(void) {
    const char *socket_path = getenv("PAGEFERRY_HANDOFF");
    if (socket_path == NULL || socket_path[0] == '\0') return;
    shim_match_configure(getenv("PAGEFERRY_RAM"), getenv("PAGEFERRY_RAM_MIN_BYTES"));
    shim_handoff_configure(
        socket_path, getenv("PAGEFERRY_USERFAULTFD_DEVICE"), getenv("PAGEFERRY_HANDOFF_TIMEOUT_SECONDS"));
    size_t patterns = shim_match_pattern_count();
    uint64_t count = shim_number("PAGEFERRY_RAM_COUNT", getenv("PAGEFERRY_RAM_COUNT"), patterns > 0 ? patterns : 1);
    if (count < 1 || count > 256) shim_die("PAGEFERRY_RAM_COUNT must lie between 1 and 256");
    expected_count = (uint32_t)count;
    is_count_given = getenv("PAGEFERRY_RAM_COUNT") != NULL;
    enabled = 1;
}

// Whether a mapping made when the RAM was complete may be: another one of its files nobody would serve. Memory of its own
// is the VMM's, plugged in later, as long as it is sure that none of the RAM was missing.
static int may_be_mapped_later(int file) { return is_count_given && !shim_handoff_has(file); }

// Hands over a mapping just made.
static void hand_over(const struct shim_region *region) {
    leave_environment();
    handed_over_by = getpid();
    shim_handoff_region(region);
    handed_over_count++;
    if (handed_over_count == expected_count) shim_handoff_ready(handed_over_count);
}

static void *map(void *address, size_t length, int protection, int flags, int file, off_t offset) {
    // The system call itself: no symbol to look up, hence safe however early, and in the middle of an allocation.
    void *mapped = (void *)syscall(SYS_mmap, address, length, protection, flags, file, offset);
    if (mapped == MAP_FAILED || !enabled || inside || file < 0 || (flags & MAP_ANONYMOUS)) return mapped;
    // A reservation of address space; the memory is mapped over it afterwards.
    if (protection == PROT_NONE) return mapped;
    int type = flags & MAP_TYPE;
    int shared = type == MAP_SHARED || type == MAP_SHARED_VALIDATE;
    if (!shared && !(protection & PROT_WRITE)) return mapped;

    int saved = errno;
    int accepted = 1;
    inside = 1;
    pthread_mutex_lock(&lock);
    // A forked child owns none of the guest's memory.
    if (handed_over_by == 0 || handed_over_by == getpid()) {
        enum shim_match match = shim_match_file(file, length);
        if (match != SHIM_NO_MATCH && handed_over_count == expected_count) {
            accepted = may_be_mapped_later(file);
        } else if (match != SHIM_NO_MATCH && shared) {
            struct shim_region region = { mapped, length, file, offset };
            hand_over(&region);
        } else if (match == SHIM_MATCH_BY_NAME) {
            shim_die("the guest's RAM file is mapped privately; add share=on to its memory backend");
        }
    }
    pthread_mutex_unlock(&lock);
    inside = 0;
    if (!accepted) {
        syscall(SYS_munmap, mapped, length);
        errno = EBUSY;
        return MAP_FAILED;
    }
    errno = saved;
    return mapped;
}

void *mmap(void *address, size_t length, int protection, int flags, int file, off_t offset) {
    return map(address, length, protection, flags, file, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int file, off64_t offset) {
    return map(address, length, protection, flags, file, offset);
}
