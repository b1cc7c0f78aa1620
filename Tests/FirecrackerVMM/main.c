// A process that hands its memory over as Firecracker does when it resumes from a snapshot: it maps anonymous memory, registers it
// with one userfaultfd, connects, sends one message, keeps the descriptor, and never reads an answer. Then its threads compare every
// page with the snapshot's memory file, which they have by another way.
//
//   FirecrackerVMM SOCKET FILE [option...]
//     regions=N       in how many regions the memory lies (2), at addresses that fall as the file's offsets rise
//     page=BYTES      2097152 takes huge pages
//     fields=new|old|oldest    which field sets it announces
//     descriptors=N   the userfaultfd and N - 1 others
//     threads=N       readers (2)
//     touch=PERCENT   how much of its pages each reader looks at (100)
//     balloon=N       runs of 16 pages given up while the readers read; they must read as zero afterwards
//     close=1         closes the connection after the message
//     linger=1        goes on until it is ended, having said "done"
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static size_t total_bytes, page_bytes = 4096, region_count = 2, balloon_runs, touch_percent = 100, run_bytes;
static const uint8_t *content;
static uint8_t *regions[64];
static size_t starts[65];
// By page: 1 while it is given up, 2 from then on.
static _Atomic uint8_t *given_up;
static atomic_size_t wrong, compared;

static void fail(const char *what) {
    fprintf(stderr, "FirecrackerVMM: %s: %s\n", what, strerror(errno));
    exit(3);
}

// The value of "name=value" among the options, or a default.
static const char *option(int count, char **options, const char *name, const char *otherwise) {
    size_t length = strlen(name);
    for (int index = 0; index < count; index++)
        if (!strncmp(options[index], name, length) && options[index][length] == '=') return options[index] + length + 1;
    return otherwise;
}

static uint8_t *guest(size_t offset) {
    size_t region = 0;
    while (offset >= starts[region + 1]) region++;
    return regions[region] + (offset - starts[region]);
}

static void check(size_t page) {
    static const uint8_t zeros[4096];
    size_t offset = page * page_bytes;
    for (size_t piece = 0; piece < page_bytes; piece += 4096) {
        int before = atomic_load(&given_up[page]);
        int is_content = !memcmp(guest(offset + piece), content + offset + piece, 4096);
        int is_zero = !memcmp(guest(offset + piece), zeros, 4096);
        int after = atomic_load(&given_up[page]);
        // Given up while it was looked at, either is right.
        if (before == 2 ? !is_zero : after ? !is_zero && !is_content : !is_content) atomic_fetch_add(&wrong, 1);
    }
    atomic_fetch_add(&compared, 1);
}

static uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void *read_pages(void *seed) {
    uint64_t state = (uint64_t)(uintptr_t)seed * 0x9E3779B97F4A7C15u;
    size_t count = total_bytes / page_bytes;
    // A stride that shares no factor with the count visits each page once, in an order that no window foresees.
    size_t stride = next_random(&state) % count | 1;
    while (1) {
        size_t a = stride, b = count;
        while (b) { size_t rest = a % b; a = b; b = rest; }
        if (a == 1) break;
        stride += 2;
    }
    size_t page = next_random(&state) % count;
    for (size_t visited = 0; visited < count * touch_percent / 100; visited++, page = (page + stride) % count) check(page);
    return NULL;
}

static void *inflate(void *unused) {
    uint64_t state = 77;
    size_t run_pages = run_bytes / page_bytes;
    for (size_t run = 0; run < balloon_runs; run++) {
        size_t first = next_random(&state) % (total_bytes / run_bytes) * run_pages;
        for (size_t page = first; page < first + run_pages; page++) {
            if (atomic_load(&given_up[page]) == 0) atomic_store(&given_up[page], 1);
            while (madvise(guest(page * page_bytes), page_bytes, MADV_DONTNEED)) if (errno != EAGAIN) fail("madvise");
            atomic_store(&given_up[page], 2);
            check(page);
        }
    }
    return unused;
}

static int open_userfault(void) {
    int descriptor = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE };
    if (descriptor < 0 || ioctl(descriptor, UFFDIO_API, &api)) fail("userfaultfd");
    return descriptor;
}

static void map_regions(int userfault) {
    size_t pages = total_bytes / page_bytes;
    for (size_t region = 0; region <= region_count; region++) starts[region] = pages * region / region_count * page_bytes;
    // One reservation, filled from its end: the addresses fall as the offsets rise.
    size_t huge = 2 << 20;
    uint8_t *end = mmap(NULL, total_bytes + (region_count + 1) * huge, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (end == MAP_FAILED) fail("mmap");
    end += total_bytes + (region_count + 1) * huge;
    for (size_t region = 0; region < region_count; region++) {
        size_t bytes = starts[region + 1] - starts[region];
        end = (uint8_t *)(((uintptr_t)end - bytes) & ~(uintptr_t)(page_bytes - 1));
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | (page_bytes > 4096 ? MAP_HUGETLB | 21 << 26 : 0);
        regions[region] = mmap(end, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (regions[region] == MAP_FAILED) fail("mmap");
        struct uffdio_register range = { .range = { (uintptr_t)end, bytes }, .mode = UFFDIO_REGISTER_MODE_MISSING };
        if (ioctl(userfault, UFFDIO_REGISTER, &range)) fail("UFFDIO_REGISTER");
        end -= page_bytes;
    }
}

static size_t announce(char *text, size_t size, const char *fields) {
    size_t used = (size_t)snprintf(text, size, "[");
    for (size_t region = 0; region < region_count; region++) {
        used += (size_t)snprintf(
            text + used, size - used, "%s{\"base_host_virt_addr\":%llu,\"size\":%zu,\"offset\":%zu", region ? "," : "",
            (unsigned long long)(uintptr_t)regions[region], starts[region + 1] - starts[region], starts[region]);
        if (!strcmp(fields, "new")) used += (size_t)snprintf(text + used, size - used, ",\"page_size\":%zu", page_bytes);
        if (strcmp(fields, "oldest")) used += (size_t)snprintf(text + used, size - used, ",\"page_size_kib\":%zu", page_bytes);
        used += (size_t)snprintf(text + used, size - used, "}");
    }
    return used + (size_t)snprintf(text + used, size - used, "]");
}

static int hand_over(const char *path, const char *text, size_t length, int userfault, size_t count) {
    int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    if (client < 0 || connect(client, (struct sockaddr *)&address, sizeof address)) fail("connect");
    int descriptors[8] = { userfault };
    for (size_t index = 1; index < count; index++) descriptors[index] = memfd_create("beside", MFD_CLOEXEC);
    char control[CMSG_SPACE(sizeof descriptors)] = { 0 };
    struct iovec vector = { (void *)text, length };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(count * sizeof(int)) };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(count * sizeof(int));
    memcpy(CMSG_DATA(header), descriptors, count * sizeof(int));
    if (sendmsg(client, &message, 0) != (ssize_t)length) fail("sendmsg");
    return client;
}

int main(int count, char **words) {
    if (count < 3) return 64;
    char **options = words + 3;
    count -= 3;
    page_bytes = strtoul(option(count, options, "page", "4096"), NULL, 10);
    region_count = strtoul(option(count, options, "regions", "2"), NULL, 10);
    balloon_runs = strtoul(option(count, options, "balloon", "0"), NULL, 10);
    touch_percent = strtoul(option(count, options, "touch", "100"), NULL, 10);
    size_t threads = strtoul(option(count, options, "threads", "2"), NULL, 10);
    run_bytes = page_bytes > 65536 ? page_bytes : 65536;
    int file = open(words[2], O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (file < 0 || fstat(file, &status)) fail(words[2]);
    total_bytes = (size_t)status.st_size;
    content = mmap(NULL, total_bytes, PROT_READ, MAP_PRIVATE, file, 0);
    given_up = calloc(total_bytes / page_bytes, 1);
    if (content == MAP_FAILED || !given_up || region_count > 63 || threads > 64) fail("memory");

    int userfault = open_userfault();
    map_regions(userfault);
    static char text[16384];
    size_t length = announce(text, sizeof text, option(count, options, "fields", "new"));
    int client = hand_over(words[1], text, length, userfault, strtoul(option(count, options, "descriptors", "1"), NULL, 10));
    if (*option(count, options, "close", "0") == '1') close(client);

    pthread_t readers[65];
    for (size_t number = 0; number < threads; number++)
        if (pthread_create(&readers[number], NULL, read_pages, (void *)(uintptr_t)(number + 1))) fail("thread");
    if (balloon_runs && pthread_create(&readers[threads], NULL, inflate, NULL)) fail("thread");
    for (size_t number = 0; number < threads + (balloon_runs > 0); number++) pthread_join(readers[number], NULL);
    printf("done: %zu pages compared, %zu wrong\n", atomic_load(&compared), atomic_load(&wrong));
    fflush(stdout);
    while (*option(count, options, "linger", "0") == '1') pause();
    return atomic_load(&wrong) ? 1 : 0;
}
