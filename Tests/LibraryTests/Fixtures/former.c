// A program of the time of version 0.1, built against that header (Fixtures/0.1): its structures are shorter, and what lies behind them
// is not theirs. It serves memory to itself, and compares it.
#define _GNU_SOURCE
#include <linux/userfaultfd.h>
#include <pageferry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <fcntl.h>
#include <unistd.h>

_Static_assert(sizeof(struct pageferry_source_options) == 40, "as it was in 0.1");
_Static_assert(sizeof(struct pageferry_destination_options) == 48, "as it was in 0.1");

enum { BYTES = 1 << 20 };

static void fail(const char *what) {
    char text[512];
    pageferry_error_text(text, sizeof text);
    fprintf(stderr, "former: %s: %s\n", what, text);
    exit(70);
}

static void *map(int memory) {
    void *base = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (memory < 0 || base == MAP_FAILED) fail("memory");
    return base;
}

static int make(const char *name) {
    int memory = memfd_create(name, MFD_CLOEXEC);
    if (memory < 0 || ftruncate(memory, BYTES) < 0) fail("memfd");
    return memory;
}

int main(void) {
    int served = make("served"), filled = make("filled");
    uint32_t *from = map(served), *to = map(filled);
    for (uint32_t index = 0; index < BYTES / 4; index++) from[index] = index * 2654435761u;

    struct pageferry_source_region source_region = { .name = "memory", .memory_descriptor = served, .length_bytes = BYTES };
    struct { struct pageferry_source_options options; unsigned char behind[64]; } source_options;
    memset(&source_options, 0xA5, sizeof source_options);
    source_options.options = (struct pageferry_source_options){
        .size = sizeof source_options.options, .regions = &source_region, .region_count = 1, .listen = "127.0.0.1:0",
    };
    int64_t source = pageferry_source_open(&source_options.options);
    char address[128];
    if (source < 0 || pageferry_source_address(source, address, sizeof address) < 0) fail("source");

    int userfault = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM };
    struct uffdio_register range = { .range = { (uintptr_t)to, BYTES }, .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR };
    if (userfault < 0 || ioctl(userfault, UFFDIO_API, &api) < 0 || ioctl(userfault, UFFDIO_REGISTER, &range) < 0) fail("userfaultfd");
    struct pageferry_destination_region region = {
        .name = "memory", .address = (uintptr_t)to, .length_bytes = BYTES, .page_size_bytes = 4096, .userfault_descriptor = userfault,
        .memory_descriptor = filled,
    };
    struct { struct pageferry_destination_options options; unsigned char behind[64]; } options;
    memset(&options, 0xA5, sizeof options);
    options.options = (struct pageferry_destination_options){
        .size = sizeof options.options, .regions = &region, .region_count = 1, .connect = address, .bulk_lanes = 1,
    };
    int64_t destination = pageferry_destination_open(&options.options);
    if (destination < 0) fail("destination");
    if (memcmp(from, to, BYTES) != 0) fail("the memory differs");

    struct pageferry_event event = { .size = sizeof event };
    do {
        if (pageferry_next_event(destination, 60000, &event) != 1) fail("event");
    } while (event.kind != PAGEFERRY_EVENT_ENDED);
    if (event.status != 0 || pageferry_close(destination) < 0 || pageferry_close(source) < 0) fail("end");
    puts("as it was");
    return 0;
}
