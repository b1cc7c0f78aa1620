/* Goes on with the computation of a worker that was stopped on another host: maps its memory at the same addresses, has it paged in as
 * it is touched, and continues from the state that it finds there.
 *
 *   cc -o resume resume.c $(pkg-config --cflags --libs pageferry)
 *   ./resume SOURCE LAYOUT STATE         SOURCE and LAYOUT are those of `pageferry source --pid PID --layout LAYOUT`
 *
 * What a process is beside its memory (registers, descriptors, its program) is not moved here: that is what CRIU is for. The state of
 * this computation lies in memory alone.
 */
#include "work.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <pageferry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST_REGIONS = 256, MOST_MAPPINGS = 4096, MOST_TRIES = 8 };

struct mapping {
    uintptr_t start, end;
    size_t offset; /* in its region */
    int region;    /* -1: of none, nothing of it was touched */
    int protection;
};

static struct pageferry_destination_region regions[MOST_REGIONS];
static struct mapping mappings[MOST_MAPPINGS];
static int region_count, mapping_count;

static void fail(const char *what) {
    fprintf(stderr, "resume: %s: %s\n", what, strerror(errno));
    exit(71);
}

static void fail_library(const char *what) {
    char text[512];
    pageferry_error_text(text, sizeof text);
    fprintf(stderr, "resume: %s: %s\n", what, text);
    exit(69);
}

static void refuse(const char *line) {
    fprintf(stderr, "resume: this layout is none of ours: %s\n", line);
    exit(65);
}

/* The layout, as Documentation/Processes.md has it: regions in the session's order, then every mapping. */
static void read_layout(const char *path) {
    char line[8192], kind[16], permissions[8], region[16];
    FILE *file = fopen(path, "r");
    if (!file) fail(path);
    if (!fgets(line, sizeof line, file) || strcmp(line, "pageferry-process-layout 1\n") != 0) refuse(line);
    while (fgets(line, sizeof line, file)) {
        size_t length, offset;
        uintptr_t start, end;
        int number;
        if (sscanf(line, "region %d %15s %zx", &number, kind, &length) == 3) {
            if (number != region_count || number >= MOST_REGIONS) refuse(line);
            regions[region_count++] = (struct pageferry_destination_region){
                .name = strcmp(kind, "shared") == 0 ? "shared" : "private", .length_bytes = length, .page_size_bytes = PAGE_BYTES,
                .memory_descriptor = -1,
            };
        } else if (sscanf(line, "map %" SCNxPTR "-%" SCNxPTR " %7s %15s %15s %zx", &start, &end, permissions, kind, region, &offset) == 6) {
            /* The program and its libraries are this program's own here, the kernel's pages the kernel's. */
            if (strcmp(kind, "file") == 0 || strcmp(kind, "kernel") == 0) continue;
            number = region[0] == '-' ? -1 : atoi(region);
            if (mapping_count == MOST_MAPPINGS || number >= region_count) refuse(line);
            mappings[mapping_count++] = (struct mapping){
                .start = start, .end = end, .offset = offset, .region = number,
                .protection = (permissions[0] == 'r' ? PROT_READ : 0) | (permissions[1] == 'w' ? PROT_WRITE : 0),
            };
        } else {
            refuse(line);
        }
    }
    fclose(file);
}

static int is_shared(const struct pageferry_destination_region *region) { return strcmp(region->name, "shared") == 0; }

/* Maps at an address, or answers that something of this process lies there. */
static int map_at(uintptr_t start, size_t length, int flags, int descriptor) {
    void *at = mmap((void *)start, length, PROT_READ | PROT_WRITE, MAP_FIXED_NOREPLACE | MAP_NORESERVE | flags, descriptor, 0);
    if (at == MAP_FAILED && errno != EEXIST) fail("mmap");
    if (at != MAP_FAILED && (uintptr_t)at != start) munmap(at, length);
    return at == (void *)start ? 0 : -1;
}

/* A private region is one mapping here, and is protected piece by piece later; a shared one is a file in memory. */
static int map_region(struct pageferry_destination_region *region, const struct mapping *mapping) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
    if (is_shared(region)) {
        if (mapping->end - mapping->start != region->length_bytes) {
            fprintf(stderr, "resume: shared memory that is mapped in several places is beyond this example\n");
            exit(65);
        }
        region->memory_descriptor = memfd_create("resumed", MFD_CLOEXEC);
        if (region->memory_descriptor < 0 || ftruncate(region->memory_descriptor, (off_t)region->length_bytes) < 0) fail("memfd");
        flags = MAP_SHARED;
    }
    region->address = mapping->start;
    return map_at(region->address, region->length_bytes, flags, region->memory_descriptor);
}

static int map_all(void) {
    for (int index = 0; index < mapping_count; index++) {
        const struct mapping *mapping = &mappings[index];
        if (mapping->region < 0) {
            if (map_at(mapping->start, mapping->end - mapping->start, MAP_PRIVATE | MAP_ANONYMOUS, -1) < 0) return -1;
        } else if (mapping->offset == 0) {
            if (regions[mapping->region].address != 0) refuse("memory that is mapped twice");
            if (map_region(&regions[mapping->region], mapping) < 0) return -1;
        }
    }
    return 0;
}

/* From here on whoever touches the region waits for its pages. */
static void register_region(struct pageferry_destination_region *region) {
    int shared = is_shared(region);
    region->userfault_descriptor = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (region->userfault_descriptor < 0) fail("userfaultfd");
    struct uffdio_api api = { .api = UFFD_API, .features = shared ? UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM : 0 };
    if (ioctl(region->userfault_descriptor, UFFDIO_API, &api) < 0) fail("UFFDIO_API");
    struct uffdio_register range = {
        .range = { region->address, region->length_bytes },
        .mode = UFFDIO_REGISTER_MODE_MISSING | (shared ? UFFDIO_REGISTER_MODE_MINOR : 0),
    };
    if (ioctl(region->userfault_descriptor, UFFDIO_REGISTER, &range) < 0) fail("UFFDIO_REGISTER");
}

int main(int count, char **arguments) {
    if (count < 4) {
        fprintf(stderr, "usage: resume SOURCE LAYOUT STATE\n");
        return 64;
    }
    read_layout(arguments[2]);
    if (map_all() < 0) {
        /* Something of ours lies there: another start of this program lies elsewhere. */
        int tries = getenv("RESUME_TRIES") ? atoi(getenv("RESUME_TRIES")) : 0;
        char text[16];
        snprintf(text, sizeof text, "%d", tries + 1);
        setenv("RESUME_TRIES", text, 1);
        if (tries < MOST_TRIES) execv("/proc/self/exe", arguments);
        fail("the worker's addresses are taken here");
    }
    for (int index = 0; index < region_count; index++) register_region(&regions[index]);
    for (int index = 0; index < mapping_count; index++) {
        const struct mapping *mapping = &mappings[index];
        if (mprotect((void *)mapping->start, mapping->end - mapping->start, mapping->protection) < 0) fail("mprotect");
    }
    struct pageferry_destination_options options = {
        .size = sizeof options, .regions = regions, .region_count = (uint32_t)region_count, .connect = arguments[1], .bulk_lanes = 2,
        .give_up_after_seconds = 0,
    };
    int64_t destination = pageferry_destination_open(&options);
    if (destination < 0) fail_library(arguments[1]);

    struct work *work = (struct work *)(uintptr_t)strtoull(arguments[3], NULL, 16);
    uint64_t step = work->state[work->current].step;
    uint64_t sum = go_on(work, UINT64_MAX);

    struct pageferry_event event = { .size = sizeof event };
    do {
        if (pageferry_next_event(destination, -1, &event) < 0) fail_library("next event");
    } while (event.kind != PAGEFERRY_EVENT_ENDED);
    if (event.status != 0) {
        fprintf(stderr, "resume: %s\n", event.text);
        return 69;
    }
    struct pageferry_statistics statistics = { .size = sizeof statistics };
    if (pageferry_read_statistics(destination, &statistics) < 0) fail_library("statistics");
    printf("done %016" PRIx64 "\nwent on at step %" PRIu64 "; %" PRIu64 " faults, %" PRIu64 " pages demanded, %" PRIu64 " pushed\n", sum, step,
        statistics.faults, statistics.demanded_pages, statistics.pushed_pages);
    if (pageferry_close(destination) < 0) fail_library("close");
    return 0;
}
