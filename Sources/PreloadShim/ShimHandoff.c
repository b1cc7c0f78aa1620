// The VMM's side of the native hand-off (Documentation/Handoff.md): hello, one region at a time, ready; each answered.
// Uses the stack only: the caller may be in the middle of an allocation. Once the memory is served a thread watches the
// daemon; when it dies, everything is handed over again to the one that takes its place, while the guest waits for its pages.

#define _GNU_SOURCE
#include "ShimInternal.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>
#include <linux/userfaultfd.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define HANDOFF_MAGIC 0x48464750u
#define HANDOFF_VERSION 1u
#define HANDOFF_AGAIN 1u
#define HANDOFF_MOST_TEXT 512
enum message_kind { MESSAGE_HELLO = 1, MESSAGE_REGION = 2, MESSAGE_READY = 3, MESSAGE_ANSWER = 4 };

struct header {
    uint32_t magic;
    uint16_t kind;
    uint16_t descriptor_count;
    uint32_t payload_bytes;
    uint32_t reserved;
};
struct pair_payload {
    uint32_t first;
    uint32_t second;
};
struct region_payload {
    uint64_t address;
    uint64_t length;
    uint64_t file_offset;
    uint32_t page_size;
    uint16_t kind;
    uint16_t modes;
    uint16_t userfault_of;
    uint16_t name_bytes;
    uint32_t reserved;
    char name[255];
};
_Static_assert(sizeof(struct header) == 16 && offsetof(struct region_payload, name) == 40, "as the protocol lays it out");

static char socket_path[sizeof ((struct sockaddr_un *)NULL)->sun_path];
static int device_descriptor = -1;
static int64_t timeout_milliseconds;
// Kept open for the life of the process: its end tells the daemon that the VMM has gone, or this side that the daemon has.
static int connection = -1;

// What was handed over, for the daemon that takes over. Descriptors are this library's own.
#define HANDOFF_MOST_REGIONS 256
static struct handed_over {
    struct region_payload payload;
    uint32_t payload_bytes;
    int descriptors[2];
} regions[HANDOFF_MOST_REGIONS];
static uint32_t region_count;

// Set in the thread that hands over again: there a failure is no reason to end the VMM, only to try once more.
static __thread int is_reattaching __attribute__((tls_model("initial-exec")));

__attribute__((format(printf, 1, 2))) static int fail(const char *format, ...) {
    if (is_reattaching) return -1;
    char text[SHIM_TEXT_BYTES / 2];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    shim_die("%s", text);
}

void shim_handoff_configure(const char *path, const char *device, const char *timeout_seconds) {
    if (strlen(path) >= sizeof socket_path) shim_die("PAGEFERRY_HANDOFF='%s' is too long for a unix socket", path);
    strcpy(socket_path, path);
    uint64_t seconds = shim_number("PAGEFERRY_HANDOFF_TIMEOUT_SECONDS", timeout_seconds, 30);
    if (seconds < 1 || seconds > 86400) shim_die("PAGEFERRY_HANDOFF_TIMEOUT_SECONDS must lie between 1 and 86400");
    timeout_milliseconds = (int64_t)seconds * 1000;
    if (device != NULL) device_descriptor = (int)shim_number("PAGEFERRY_USERFAULTFD_DEVICE", device, 0);
}

static int64_t now_milliseconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static int await(short events, int64_t deadline) {
    for (;;) {
        int64_t left = deadline - now_milliseconds();
        struct pollfd waiting = { .fd = connection, .events = events };
        int ready = poll(&waiting, 1, left > 0 ? (int)left : 0);
        if (ready > 0) return 0;
        if (ready == 0) return fail("the page daemon at '%s' did not answer in time", socket_path);
        if (errno != EINTR) return fail("waiting for the page daemon failed: %s", strerror(errno));
    }
}

static int send_message(
    enum message_kind kind, const void *payload, uint32_t payload_bytes, const int *descriptors, int descriptor_count
) {
    struct header header = {
        htole32(HANDOFF_MAGIC), htole16((uint16_t)kind), htole16((uint16_t)descriptor_count), htole32(payload_bytes), 0,
    };
    unsigned char bytes[sizeof header + sizeof(struct region_payload)];
    memcpy(bytes, &header, sizeof header);
    memcpy(bytes + sizeof header, payload, payload_bytes);
    size_t total = sizeof header + payload_bytes;
    union {
        char bytes[CMSG_SPACE(sizeof(int) * 2)];
        struct cmsghdr align;
    } control = { 0 };
    int64_t deadline = now_milliseconds() + timeout_milliseconds;
    for (size_t sent = 0; sent < total;) {
        struct iovec vector = { bytes + sent, total - sent };
        struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
        // Descriptors travel with the first byte, once.
        if (sent == 0 && descriptor_count > 0) {
            message.msg_control = control.bytes;
            message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)descriptor_count);
            struct cmsghdr *attached = CMSG_FIRSTHDR(&message);
            attached->cmsg_level = SOL_SOCKET;
            attached->cmsg_type = SCM_RIGHTS;
            attached->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)descriptor_count);
            memcpy(CMSG_DATA(attached), descriptors, sizeof(int) * (size_t)descriptor_count);
        }
        ssize_t count = sendmsg(connection, &message, MSG_NOSIGNAL);
        if (count >= 0) sent += (size_t)count;
        else if (errno == EAGAIN) { if (await(POLLOUT, deadline) < 0) return -1; }
        else if (errno == EPIPE || errno == ECONNRESET) return 0;  // Its answer, already under way, says why.
        else if (errno != EINTR) return fail("sending to the page daemon failed: %s", strerror(errno));
    }
    return 0;
}

static int receive_exactly(void *buffer, size_t length, int64_t deadline) {
    for (size_t received = 0; received < length;) {
        ssize_t count = recv(connection, (char *)buffer + received, length - received, 0);
        if (count > 0) received += (size_t)count;
        else if (count == 0 || errno == ECONNRESET) return fail("the page daemon at '%s' ended during the hand-off", socket_path);
        else if (errno == EAGAIN) { if (await(POLLIN, deadline) < 0) return -1; }
        else if (errno != EINTR) return fail("receiving from the page daemon failed: %s", strerror(errno));
    }
    return 0;
}

static int expect_success(void) {
    int64_t deadline = now_milliseconds() + timeout_milliseconds;
    struct header header;
    if (receive_exactly(&header, sizeof header, deadline) < 0) return -1;
    uint32_t payload_bytes = le32toh(header.payload_bytes);
    if (le32toh(header.magic) != HANDOFF_MAGIC || le16toh(header.kind) != MESSAGE_ANSWER || header.descriptor_count != 0
        || payload_bytes < sizeof(struct pair_payload) || payload_bytes > sizeof(struct pair_payload) + HANDOFF_MOST_TEXT) {
        return fail("what listens at '%s' is no page daemon of this version", socket_path);
    }
    struct pair_payload answer;
    char text[HANDOFF_MOST_TEXT + 1] = "";
    if (receive_exactly(&answer, sizeof answer, deadline) < 0) return -1;
    if (receive_exactly(text, payload_bytes - sizeof answer, deadline) < 0) return -1;
    return answer.first == 0 ? 0 : fail("the page daemon refused: %s", text);
}

static int connect_and_greet(void) {
    connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (connection < 0) return fail("cannot make a socket: %s", strerror(errno));
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strcpy(address.sun_path, socket_path);
    if (connect(connection, (struct sockaddr *)&address, sizeof address) < 0) {
        return fail("cannot reach the page daemon at '%s': %s; start it before the VMM", socket_path, strerror(errno));
    }
    struct pair_payload hello = { htole32(HANDOFF_VERSION), htole32(is_reattaching ? HANDOFF_AGAIN : 0) };
    if (send_message(MESSAGE_HELLO, &hello, sizeof hello, NULL, 0) < 0) return -1;
    return expect_success();
}

static int send_region(const struct handed_over *region) {
    if (send_message(MESSAGE_REGION, &region->payload, region->payload_bytes, region->descriptors, 2) < 0) return -1;
    return expect_success();
}

static int send_ready(void) {
    struct pair_payload ready = { htole32(region_count), 0 };
    if (send_message(MESSAGE_READY, &ready, sizeof ready, NULL, 0) < 0) return -1;
    return expect_success();
}

static int open_userfault(uint64_t required) {
    int flags = O_CLOEXEC | O_NONBLOCK;
    int userfault = (int)syscall(SYS_userfaultfd, flags);
    if (userfault < 0 && device_descriptor >= 0) userfault = ioctl(device_descriptor, USERFAULTFD_IOC_NEW, flags);
    if (userfault < 0) {
        int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
        if (device >= 0) {
            userfault = ioctl(device, USERFAULTFD_IOC_NEW, flags);
            close(device);
        }
    }
    if (userfault < 0) {
        shim_die("may not open a userfaultfd: %s; run as root, set vm.unprivileged_userfaultfd=1, give access to "
            "/dev/userfaultfd, or inherit it as PAGEFERRY_USERFAULTFD_DEVICE", strerror(errno));
    }
    struct uffdio_api request = { .api = UFFD_API, .features = required | UFFD_FEATURE_EVENT_REMOVE };
    if (ioctl(userfault, UFFDIO_API, &request) < 0) {
        shim_die("this kernel's userfaultfd cannot serve shared memory: %s; use Linux 5.14 or later", strerror(errno));
    }
    return userfault;
}

// The page size of the file system: on hugetlbfs the huge page's.
static uint32_t page_size_of(int file, int *huge) {
    struct statfs system;
    if (fstatfs(file, &system) < 0) shim_die("cannot inspect the guest's RAM file: %s", strerror(errno));
    *huge = system.f_type == 0x958458f6;
    return *huge ? (uint32_t)system.f_bsize : (uint32_t)sysconf(_SC_PAGESIZE);
}

void shim_handoff_region(const struct shim_region *region) {
    if (connection < 0) connect_and_greet();
    if (region_count == HANDOFF_MOST_REGIONS) shim_die("the guest has more than %d RAM files", HANDOFF_MOST_REGIONS);
    int huge;
    uint32_t page_size = page_size_of(region->file, &huge);
    int userfault = open_userfault(huge ? UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS
                                        : UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM);
    uint64_t length = ((uint64_t)region->length + page_size - 1) / page_size * page_size;
    uint64_t modes = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR;
    struct uffdio_register registration = { .range = { (uintptr_t)region->address, length }, .mode = modes };
    if (ioctl(userfault, UFFDIO_REGISTER, &registration) < 0) {
        shim_die("cannot register %llu bytes of guest RAM: %s; the RAM file must lie on tmpfs or hugetlbfs, or be a memfd",
            (unsigned long long)length, strerror(errno));
    }
    struct handed_over *handed = &regions[region_count];
    handed->payload = (struct region_payload){
        .address = htole64((uintptr_t)region->address), .length = htole64(length),
        .file_offset = htole64((uint64_t)region->offset), .page_size = htole32(page_size), .kind = htole16(1),
        .modes = htole16((uint16_t)modes), .userfault_of = htole16(0xffff),
    };
    int name_bytes = snprintf(handed->payload.name, sizeof handed->payload.name, "ram%u", region_count);
    handed->payload.name_bytes = htole16((uint16_t)name_bytes);
    handed->payload_bytes = (uint32_t)(offsetof(struct region_payload, name) + (size_t)name_bytes);
    // Both stay open on purpose: were the daemon's userfaultfd the last, its death would turn missing pages into zeros. Now
    // the guest waits for the next one in place of that.
    handed->descriptors[0] = userfault;
    handed->descriptors[1] = fcntl(region->file, F_DUPFD_CLOEXEC, 3);
    if (handed->descriptors[1] < 0) shim_die("no descriptor is left for the guest's RAM file: %s", strerror(errno));
    send_region(handed);
    region_count++;
}

int shim_handoff_has(int file) {
    struct stat given, known;
    if (fstat(file, &given) < 0) return 0;
    for (uint32_t index = 0; index < region_count; index++) {
        if (fstat(regions[index].descriptors[1], &known) == 0 && known.st_dev == given.st_dev && known.st_ino == given.st_ino) return 1;
    }
    return 0;
}

// Waits for the daemon's end, then for the next one, for as long as the VMM lives.
static void *keep_attached(void *unused) {
    (void)unused;
    is_reattaching = 1;
    int pause_milliseconds = 20;
    for (;;) {
        struct pollfd waiting = { .fd = connection, .events = POLLIN };
        if (connection >= 0 && poll(&waiting, 1, -1) <= 0) continue;
        if (connection >= 0) close(connection);
        connection = -1;
        int attached = connect_and_greet() == 0;
        for (uint32_t index = 0; attached && index < region_count; index++) attached = send_region(&regions[index]) == 0;
        if (attached && send_ready() == 0) {
            pause_milliseconds = 20;
            continue;
        }
        if (connection >= 0) close(connection);
        connection = -1;
        // Nothing tells when the next daemon listens; a socket that is not there yet has no event.
        poll(NULL, 0, pause_milliseconds);
        if (pause_milliseconds < 1000) pause_milliseconds *= 2;
    }
    return NULL;
}

void shim_handoff_ready(uint32_t count) {
    (void)count;
    send_ready();
    // The VMM's signals are none of the thread's business.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t keeper;
    if (pthread_create(&keeper, NULL, keep_attached, NULL) == 0) pthread_detach(keeper);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}
