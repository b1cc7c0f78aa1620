/* A program that is its own page daemon, as a VMM would be: it serves its memory, "migrates" into a second process of itself, and
 * there its faults are answered by the library's threads in the very process that faults. Its one migration connection carries the
 * machine state first, then the pages: the library adopts it on both sides.
 *
 *   cc -pthread -o vmm vmm.c $(pkg-config --cflags --libs pageferry)
 *   ./vmm
 *
 * Two "vCPU" threads add up a memory of numbers that a first process has begun with; the program stops in the middle, the second
 * process goes on there with none of that memory, and both must come to the same sums.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <pageferry.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { VCPUS = 2, PAGES = 4096, PAGE_BYTES = 4096, WORDS = PAGE_BYTES / 8 };
static const size_t ram_bytes = (size_t)PAGES * PAGE_BYTES;

/* What a VMM calls device state: it crosses by itself, and is all that the second process has at first. */
struct machine_state {
    uint32_t next_page[VCPUS];
    uint64_t sum[VCPUS];
};

struct vcpu {
    pthread_t thread;
    const volatile uint64_t *ram;
    struct machine_state *state;
    unsigned number;
    uint32_t last_page;
};

static void fail(const char *what) {
    char text[512];
    pageferry_error_text(text, sizeof text);
    fprintf(stderr, "vmm: %s: %s\n", what, text);
    perror("vmm");
    exit(70);
}

static void *run_vcpu(void *argument) {
    struct vcpu *vcpu = argument;
    uint32_t *page = &vcpu->state->next_page[vcpu->number];
    for (; *page < vcpu->last_page; ++*page)
        for (int word = (int)vcpu->number; word < WORDS; word += VCPUS)
            vcpu->state->sum[vcpu->number] = vcpu->state->sum[vcpu->number] * 31 + vcpu->ram[(size_t)(*page * 2654435761u % PAGES) * WORDS + (size_t)word];
    return NULL;
}

static void run_machine(const uint64_t *ram, struct machine_state *state, uint32_t last_page) {
    struct vcpu vcpus[VCPUS];
    for (unsigned number = 0; number < VCPUS; number++) {
        vcpus[number] = (struct vcpu){ .ram = ram, .state = state, .number = number, .last_page = last_page };
        if (pthread_create(&vcpus[number].thread, NULL, run_vcpu, &vcpus[number]) != 0) fail("vCPU");
    }
    for (unsigned number = 0; number < VCPUS; number++) pthread_join(vcpus[number].thread, NULL);
}

static int make_ram(uint64_t **ram) {
    int memory = memfd_create("ram", MFD_CLOEXEC);
    if (memory < 0 || ftruncate(memory, (off_t)ram_bytes) < 0) fail("memfd");
    *ram = mmap(NULL, ram_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (*ram == MAP_FAILED) fail("mmap");
    return memory;
}

/* The second process: its memory is registered before anything touches it, and opened; then the machine runs. */
static int destination(int32_t connection, struct machine_state state) {
    uint64_t *ram;
    int memory = make_ram(&ram);
    int userfault = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_EVENT_REMOVE };
    struct uffdio_register range = { .range = { (uintptr_t)ram, ram_bytes }, .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR };
    if (userfault < 0 || ioctl(userfault, UFFDIO_API, &api) < 0 || ioctl(userfault, UFFDIO_REGISTER, &range) < 0) fail("userfaultfd");
    struct pageferry_destination_region region = {
        .name = "ram", .address = (uintptr_t)ram, .length_bytes = ram_bytes, .page_size_bytes = PAGE_BYTES,
        .userfault_descriptor = userfault, .memory_descriptor = memory,
    };
    struct pageferry_destination_options options = {
        .size = sizeof options, .regions = &region, .region_count = 1, .adopted_descriptors = &connection, .adopted_count = 1,
    };
    int64_t handle = pageferry_destination_open(&options);
    if (handle < 0) fail("destination");
    run_machine(ram, &state, PAGES);
    struct pageferry_event event = { .size = sizeof event };
    do {
        if (pageferry_next_event(handle, -1, &event) < 0) fail("event");
    } while (event.kind != PAGEFERRY_EVENT_ENDED);
    struct pageferry_statistics statistics = { .size = sizeof statistics };
    if (pageferry_read_statistics(handle, &statistics) < 0 || pageferry_close(handle) < 0) fail("close");
    printf("after the move: %016" PRIx64 " %016" PRIx64 ", %" PRIu64 " faults\n", state.sum[0], state.sum[1], statistics.faults);
    return event.status == 0 ? 0 : 70;
}

int main(int count, char **arguments) {
    struct machine_state state;
    if (count == 2) {
        int connection = atoi(arguments[1]);
        if (recv(connection, &state, sizeof state, MSG_WAITALL) != sizeof state) fail("machine state");
        return destination(connection, state);
    }
    uint64_t *ram;
    int memory = make_ram(&ram);
    for (size_t word = 0; word < ram_bytes / 8; word++) ram[word] = (word ^ word >> 9 ^ 0x5BD1E995u) * 0x9E3779B97F4A7C15u >> 3;
    memset(&state, 0, sizeof state);
    run_machine(ram, &state, PAGES / 2);

    /* The machine stands still: what it has crosses. A VMM's connection leads to another host. */
    int connection[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, connection) < 0 || fcntl(connection[0], F_SETFD, FD_CLOEXEC) < 0) fail("connection");
    if (send(connection[0], &state, sizeof state, 0) != sizeof state) fail("machine state");
    struct pageferry_source_region region = { .name = "ram", .memory_descriptor = memory, .length_bytes = ram_bytes };
    struct pageferry_source_options options = { .size = sizeof options, .regions = &region, .region_count = 1, .adopted_descriptors = &connection[0], .adopted_count = 1 };
    int64_t source = pageferry_source_open(&options);
    if (source < 0) fail("source");
    char descriptor[16];
    snprintf(descriptor, sizeof descriptor, "%d", connection[1]);
    /* A new program, not a child that shares this one's threads: the library does not live through fork(). */
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", arguments[0], descriptor, (char *)NULL);
        _exit(71);
    }
    close(connection[1]);
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) < 0) fail("child");
    if (pageferry_close(source) < 0) fail("close");
    run_machine(ram, &state, PAGES);
    printf("without it:     %016" PRIx64 " %016" PRIx64 "\n", state.sum[0], state.sum[1]);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 70;
}
