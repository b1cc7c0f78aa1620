/* Pages a file in from another host, by demand: a page daemon's destination in C.
 *
 *   cc -o page-in page-in.c $(pkg-config --cflags --libs pageferry)
 *   ./page-in SOURCE BYTES [KEY-FILE]          prints a checksum of every byte
 *
 * SOURCE is where a source listens, such as `pageferry source --memory FILE`; BYTES is the length of its memory. The first
 * userfaultfd of this process takes the faults, the library fills the pages, and the loop below never knows that they were not
 * there.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <pageferry.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static void fail(const char *what) {
    perror(what);
    exit(71);
}

static void fail_library(const char *what) {
    char text[512];
    pageferry_error_text(text, sizeof text);
    fprintf(stderr, "page-in: %s: %s\n", what, text);
    exit(69);
}

int main(int count, char **arguments) {
    if (count < 3) {
        fprintf(stderr, "usage: page-in SOURCE BYTES [KEY-FILE]\n");
        return 64;
    }
    size_t bytes = strtoull(arguments[2], NULL, 0);

    /* Memory of a file: what the process sees, and what the library fills, are two mappings of it. */
    int memory = memfd_create("paged-in", MFD_CLOEXEC);
    if (memory < 0 || ftruncate(memory, (off_t)bytes) < 0) fail("memfd");
    volatile uint8_t *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (base == MAP_FAILED) fail("mmap");

    int userfault = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    if (userfault < 0) fail("userfaultfd");
    struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_EVENT_REMOVE };
    if (ioctl(userfault, UFFDIO_API, &api) < 0) fail("UFFDIO_API");
    struct uffdio_register range = { .range = { (uintptr_t)base, bytes }, .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR };
    if (ioctl(userfault, UFFDIO_REGISTER, &range) < 0) fail("UFFDIO_REGISTER");

    struct pageferry_destination_region region = {
        .name = "memory", .address = (uintptr_t)base, .length_bytes = bytes, .page_size_bytes = 4096,
        .userfault_descriptor = userfault, .memory_descriptor = memory,
    };
    struct pageferry_security security = { .pre_shared_key_path = count > 3 ? arguments[3] : NULL };
    struct pageferry_destination_options options = {
        .size = sizeof options, .regions = &region, .region_count = 1, .connect = arguments[1], .security = &security,
        .bulk_lanes = 2, .give_up_after_seconds = -1,
    };
    int64_t destination = pageferry_destination_open(&options);
    if (destination < 0) fail_library(arguments[1]);

    uint64_t checksum = 14695981039346656037u;
    for (size_t index = 0; index < bytes; index++) checksum = (checksum ^ base[index]) * 1099511628211u;

    struct pageferry_event event = { .size = sizeof event };
    do {
        if (pageferry_next_event(destination, -1, &event) < 0) fail_library("next event");
    } while (event.kind != PAGEFERRY_EVENT_ENDED);
    if (event.status != 0) {
        fprintf(stderr, "page-in: %s\n", event.text);
        return 69;
    }
    struct pageferry_statistics statistics = { .size = sizeof statistics };
    if (pageferry_read_statistics(destination, &statistics) < 0) fail_library("statistics");
    printf("checksum %016" PRIx64 ", %" PRIu64 " faults, %" PRIu64 " pages demanded, %" PRIu64 " pushed\n", checksum, statistics.faults,
        statistics.demanded_pages, statistics.pushed_pages);
    if (pageferry_close(destination) < 0) fail_library("close");
    return 0;
}
