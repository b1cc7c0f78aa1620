#ifndef PAGEFERRY_SHIM_INTERNAL_H
#define PAGEFERRY_SHIM_INTERNAL_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// EX_OSERR: the VMM must not run on memory that nobody serves.
#define SHIM_EXIT_CODE 71
#define SHIM_MOST_PATTERNS 64
#define SHIM_TEXT_BYTES 4096

// The VMM sees mmap and mmap64, nothing else.
#pragma GCC visibility push(hidden)

// One mapping of guest RAM, right after it was made.
struct shim_region {
    void *address;
    size_t length;
    int file;
    off_t offset;
};

enum shim_match { SHIM_NO_MATCH, SHIM_MATCH_BY_NAME, SHIM_MATCH_BY_SIZE };

// ShimMatch.c: which mappings are guest RAM.
void shim_match_configure(const char *patterns, const char *least_bytes);
size_t shim_match_pattern_count(void);
enum shim_match shim_match_file(int file, size_t length);

// ShimHandoff.c: the VMM's side of Documentation/Handoff.md. Both end the process when anything fails.
void shim_handoff_configure(const char *socket_path, const char *device, const char *timeout_seconds);
void shim_handoff_region(const struct shim_region *region);
void shim_handoff_ready(uint32_t count);
// Whether the file is one of those handed over.
int shim_handoff_has(int file);

// Prints one line and ends the process without running anything of it.
_Noreturn void shim_die(const char *format, ...) __attribute__((format(printf, 1, 2)));
// A decimal number of an environment variable, or `absent` when `text` is NULL; ends the process when it is none.
uint64_t shim_number(const char *variable, const char *text, uint64_t absent);

#pragma GCC visibility pop

#endif
