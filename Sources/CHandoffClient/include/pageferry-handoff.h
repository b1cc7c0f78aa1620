/* The VMM's side of PageFerry's hand-off protocol (Documentation/Handoff.md), in one header: gives a process's memory to the page
 * daemon, which fills it while it is used. Needs nothing but libc and Linux; C99 and C++.
 *
 *     static struct pageferry_handoff handoff;
 *     pageferry_handoff_init(&handoff, "/run/pageferry.sock", 10000);
 *     if (pageferry_handoff_connect(&handoff) < 0                                                     // hello
 *         || pageferry_handoff_shared(&handoff, "ram", base, length, file, 0) < 0                     // a region; its number
 *         || pageferry_handoff_ready(&handoff) < 0) die(handoff.error);                               // served from here on
 *     for (;;)                                                                                        // in a thread of its own
 *         switch (pageferry_handoff_wait(&handoff, -1)) {
 *         case PAGEFERRY_HANDOFF_FINISHED: return;                                                    // every page is here
 *         case PAGEFERRY_HANDOFF_ENDED: while (pageferry_handoff_reattach(&handoff) < 0) pause_a_little();
 *         }
 *
 * Functions return a negative number when they fail; `error` then has one line that says why, `status` the daemon's status when it
 * was the daemon that refused. None allocates, and none may be called by two threads at once for one `struct pageferry_handoff`.
 * Hand memory over before any byte of it is touched, and never go on with it when that fails: it would read as zeros.
 *
 * Include this header before others, or compile with -D_GNU_SOURCE.
 *
 * Copyright the PageFerry authors. Licensed under the Apache License, Version 2.0.
 */
#ifndef PAGEFERRY_HANDOFF_H
#define PAGEFERRY_HANDOFF_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define PAGEFERRY_HANDOFF_VERSION 2u
#define PAGEFERRY_HANDOFF_MOST_REGIONS 256
#define PAGEFERRY_HANDOFF_MOST_TEXT 512
#define PAGEFERRY_HANDOFF_MOST_NAME 63

/* What `pageferry_handoff_wait` has seen. */
enum pageferry_handoff_event {
    PAGEFERRY_HANDOFF_NOTHING = 0,  /* the time is over */
    PAGEFERRY_HANDOFF_ENDED = 1,    /* the daemon has died: re-attach, its threads wait meanwhile */
    PAGEFERRY_HANDOFF_FINISHED = 2  /* every page is here, and the daemon has let go of the memory; it needs no daemon any more */
};

/* Messages and kinds of regions, as the protocol numbers them. */
enum pageferry_handoff_message {
    PAGEFERRY_HANDOFF_HELLO = 1, PAGEFERRY_HANDOFF_REGION = 2, PAGEFERRY_HANDOFF_READY = 3, PAGEFERRY_HANDOFF_ANSWER = 4,
    PAGEFERRY_HANDOFF_REMOVE = 5, PAGEFERRY_HANDOFF_FINISH = 6
};
enum pageferry_handoff_kind { PAGEFERRY_HANDOFF_ANONYMOUS = 0, PAGEFERRY_HANDOFF_SHARED = 1, PAGEFERRY_HANDOFF_REMOVED = 2 };

/* Memory to be handed over. */
struct pageferry_handoff_memory {
    const char *name;    /* for logs; UTF-8, cut to 63 bytes */
    void *address;       /* where it is mapped; whole pages */
    size_t length;       /* bytes; whole pages, `pageferry_handoff_shared` rounds up */
    int file;            /* of shared memory: its file, open for reading and writing; -1: anonymous memory */
    uint64_t offset;     /* where it begins in its file */
    uint32_t page_size;  /* 0: as its file says, or that of the system */
    int userfault;       /* -1: one is opened and registered; else one that the range is registered with, missing and (shared) minor */
};

/* A region as it was handed over. Both descriptors are copies of this library's own. */
struct pageferry_handoff_region {
    uint64_t address, length, offset;
    uint32_t page_size;
    uint16_t kind, modes;
    int userfault, file;
    char name[PAGEFERRY_HANDOFF_MOST_NAME + 1];
};

struct pageferry_handoff {
    char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
    int timeout_milliseconds;  /* for each answer, and for connecting */
    int device;                /* an inherited descriptor of /dev/userfaultfd, or -1 */
    int connection;            /* -1 without a daemon */
    uint32_t newest;           /* the newest version to be spoken */
    uint32_t version;          /* that both speak */
    uint32_t unanswered;       /* requests whose answer did not come in time, and may yet */
    int has_ended, is_finished;
    uint32_t status;           /* the daemon's, of its last refusal */
    uint32_t region_count;
    struct pageferry_handoff_region regions[PAGEFERRY_HANDOFF_MOST_REGIONS];
    char error[PAGEFERRY_HANDOFF_MOST_TEXT + 256];
};

/* ---- The wire -------------------------------------------------------------------------------------------------------------- */

struct pageferry_handoff_header {
    uint32_t magic;
    uint16_t kind, descriptor_count;
    uint32_t payload_bytes, reserved;
};
struct pageferry_handoff_pair {
    uint32_t first, second;
};
struct pageferry_handoff_announcement {
    uint64_t address, length, offset;
    uint32_t page_size;
    uint16_t kind, modes, userfault_of, name_bytes;
    uint32_t reserved;
};

#define PAGEFERRY_HANDOFF_MAGIC 0x48464750u
#define PAGEFERRY_HANDOFF_MOST_PAYLOAD (sizeof(struct pageferry_handoff_announcement) + PAGEFERRY_HANDOFF_MOST_NAME)

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
static inline int pageferry_handoff_fail(struct pageferry_handoff *handoff, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(handoff->error, sizeof handoff->error, format, arguments);
    va_end(arguments);
    return -1;
}

static inline int64_t pageferry_handoff_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static inline int64_t pageferry_handoff_deadline(const struct pageferry_handoff *handoff) {
    return pageferry_handoff_now() + handoff->timeout_milliseconds;
}

static inline int pageferry_handoff_await(struct pageferry_handoff *handoff, short events, int64_t deadline) {
    for (;;) {
        int64_t left = deadline - pageferry_handoff_now();
        struct pollfd waiting;
        waiting.fd = handoff->connection;
        waiting.events = events;
        waiting.revents = 0;
        int ready = poll(&waiting, 1, left > 0 ? (int)left : 0);
        if (ready > 0) return 0;
        if (ready == 0) return pageferry_handoff_fail(handoff, "the page daemon at '%s' did not answer in time", handoff->path);
        if (errno != EINTR) return pageferry_handoff_fail(handoff, "waiting for the page daemon failed: %s", strerror(errno));
    }
}

static inline int pageferry_handoff_send(
    struct pageferry_handoff *handoff, enum pageferry_handoff_message kind, const void *payload, size_t payload_bytes,
    const int *descriptors, size_t descriptor_count
) {
    struct pageferry_handoff_header header;
    unsigned char bytes[sizeof header + PAGEFERRY_HANDOFF_MOST_PAYLOAD];
    union {
        char bytes[CMSG_SPACE(sizeof(int) * 2)];
        struct cmsghdr align;
    } control;
    int64_t deadline = pageferry_handoff_deadline(handoff);
    size_t total = sizeof header + payload_bytes, sent = 0;
    header.magic = htole32(PAGEFERRY_HANDOFF_MAGIC);
    header.kind = htole16((uint16_t)kind);
    header.descriptor_count = htole16((uint16_t)descriptor_count);
    header.payload_bytes = htole32((uint32_t)payload_bytes);
    header.reserved = 0;
    memcpy(bytes, &header, sizeof header);
    memcpy(bytes + sizeof header, payload, payload_bytes);
    while (sent < total) {
        struct iovec vector;
        struct msghdr message;
        memset(&message, 0, sizeof message);
        vector.iov_base = bytes + sent;
        vector.iov_len = total - sent;
        message.msg_iov = &vector;
        message.msg_iovlen = 1;
        if (sent == 0 && descriptor_count > 0) {  /* Descriptors travel with the first byte, once. */
            struct cmsghdr *attached;
            memset(&control, 0, sizeof control);
            message.msg_control = control.bytes;
            message.msg_controllen = CMSG_SPACE(sizeof(int) * descriptor_count);
            attached = CMSG_FIRSTHDR(&message);
            attached->cmsg_level = SOL_SOCKET;
            attached->cmsg_type = SCM_RIGHTS;
            attached->cmsg_len = CMSG_LEN(sizeof(int) * descriptor_count);
            memcpy(CMSG_DATA(attached), descriptors, sizeof(int) * descriptor_count);
        }
        ssize_t count = sendmsg(handoff->connection, &message, MSG_NOSIGNAL);
        if (count >= 0) sent += (size_t)count;
        else if (errno == EAGAIN) { if (pageferry_handoff_await(handoff, POLLOUT, deadline) < 0) return -1; }
        else if (errno == EPIPE || errno == ECONNRESET) return 0;  /* Its answer, already under way, says why. */
        else if (errno != EINTR) return pageferry_handoff_fail(handoff, "sending to the page daemon failed: %s", strerror(errno));
    }
    return 0;
}

static inline int pageferry_handoff_receive(struct pageferry_handoff *handoff, void *buffer, size_t length, int64_t deadline) {
    size_t received = 0;
    while (received < length) {
        ssize_t count = recv(handoff->connection, (char *)buffer + received, length - received, 0);
        if (count > 0) received += (size_t)count;
        else if (count == 0 || errno == ECONNRESET) {
            handoff->has_ended = 1;
            return pageferry_handoff_fail(handoff, "the page daemon at '%s' ended during the hand-off", handoff->path);
        }
        else if (errno == EAGAIN) { if (pageferry_handoff_await(handoff, POLLIN, deadline) < 0) return -1; }
        else if (errno != EINTR) return pageferry_handoff_fail(handoff, "receiving from the page daemon failed: %s", strerror(errno));
    }
    return 0;
}

/* Receives one message: an answer, whose status is given back, or the news that all is here. */
static inline int pageferry_handoff_next(struct pageferry_handoff *handoff, int64_t deadline, uint32_t *status, char *text) {
    struct pageferry_handoff_header header;
    struct pageferry_handoff_pair answer;
    uint32_t payload_bytes;
    uint16_t kind;
    if (pageferry_handoff_receive(handoff, &header, sizeof header, deadline) < 0) return -1;
    payload_bytes = le32toh(header.payload_bytes);
    kind = le16toh(header.kind);
    if (le32toh(header.magic) != PAGEFERRY_HANDOFF_MAGIC || header.descriptor_count != 0 || payload_bytes < sizeof answer
        || (kind != PAGEFERRY_HANDOFF_ANSWER && kind != PAGEFERRY_HANDOFF_FINISH)
        || payload_bytes > sizeof answer + PAGEFERRY_HANDOFF_MOST_TEXT) {
        return pageferry_handoff_fail(handoff, "what listens at '%s' is no page daemon of this version", handoff->path);
    }
    if (pageferry_handoff_receive(handoff, &answer, sizeof answer, deadline) < 0) return -1;
    if (pageferry_handoff_receive(handoff, text, payload_bytes - sizeof answer, deadline) < 0) return -1;
    text[payload_bytes - sizeof answer] = '\0';
    if (kind == PAGEFERRY_HANDOFF_FINISH) handoff->is_finished = 1;
    else if (handoff->unanswered > 0) handoff->unanswered--;
    else *status = le32toh(answer.first);
    return kind;
}

/* Sends one message and waits for its answer. */
static inline int pageferry_handoff_ask(
    struct pageferry_handoff *handoff, enum pageferry_handoff_message kind, const void *payload, size_t payload_bytes,
    const int *descriptors, size_t descriptor_count
) {
    char text[PAGEFERRY_HANDOFF_MOST_TEXT + 1];
    int64_t deadline;
    uint32_t late;
    uint32_t status = 0;
    handoff->status = 0;
    handoff->has_ended = 0;
    if (handoff->connection < 0) return pageferry_handoff_fail(handoff, "there is no page daemon: connect or re-attach first");
    if (pageferry_handoff_send(handoff, kind, payload, payload_bytes, descriptors, descriptor_count) < 0) return -1;
    deadline = pageferry_handoff_deadline(handoff);
    for (;;) {
        late = handoff->unanswered;
        int got = pageferry_handoff_next(handoff, deadline, &status, text);
        if (got < 0) {
            if (!handoff->has_ended) handoff->unanswered++;
            return -1;
        }
        if (got == PAGEFERRY_HANDOFF_ANSWER && late == 0) break;
    }
    handoff->status = status;
    return status == 0 ? 0 : pageferry_handoff_fail(handoff, "the page daemon refused: %s", text);
}

/* ---- Connecting ------------------------------------------------------------------------------------------------------------ */

/* Call first; nothing can fail but a path that is too long, and that shows when connecting. */
static inline void pageferry_handoff_init(struct pageferry_handoff *handoff, const char *path, int timeout_milliseconds) {
    memset(handoff, 0, sizeof *handoff);
    handoff->timeout_milliseconds = timeout_milliseconds;
    handoff->connection = handoff->device = -1;
    handoff->newest = handoff->version = PAGEFERRY_HANDOFF_VERSION;
    if (strlen(path) < sizeof handoff->path) strcpy(handoff->path, path);
}

static inline void pageferry_handoff_disconnect(struct pageferry_handoff *handoff) {
    if (handoff->connection >= 0) close(handoff->connection);
    handoff->connection = -1;
    handoff->unanswered = 0;
}

static inline int pageferry_handoff_open(struct pageferry_handoff *handoff) {
    struct sockaddr_un address;
    int64_t deadline = pageferry_handoff_deadline(handoff);
    if (handoff->path[0] == '\0') return pageferry_handoff_fail(handoff, "the path of the page daemon's socket is empty or too long");
    pageferry_handoff_disconnect(handoff);
    handoff->connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (handoff->connection < 0) return pageferry_handoff_fail(handoff, "cannot make a socket: %s", strerror(errno));
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    strcpy(address.sun_path, handoff->path);
    while (connect(handoff->connection, (struct sockaddr *)&address, sizeof address) < 0) {
        /* Others are in front; a unix socket has no event for that. */
        if (errno == EINTR || (errno == EAGAIN && pageferry_handoff_now() < deadline)) {
            poll(NULL, 0, 5);
            continue;
        }
        pageferry_handoff_fail(
            handoff, "cannot reach the page daemon at '%s': %s; start it before the VMM", handoff->path, strerror(errno));
        pageferry_handoff_disconnect(handoff);
        return -1;
    }
    return 0;
}

/* Connects and says hello, in the newest version that the daemon speaks too. */
static inline int pageferry_handoff_hello(struct pageferry_handoff *handoff, uint32_t flags) {
    handoff->version = handoff->newest;
    for (;;) {
        struct pageferry_handoff_pair hello;
        hello.first = htole32(handoff->version);
        hello.second = htole32(flags);
        if (pageferry_handoff_open(handoff) < 0) return -1;
        if (pageferry_handoff_ask(handoff, PAGEFERRY_HANDOFF_HELLO, &hello, sizeof hello, NULL, 0) == 0) return 0;
        pageferry_handoff_disconnect(handoff);
        if (handoff->status != 1 || handoff->version == 1) return -1;
        handoff->version--;
    }
}

static inline int pageferry_handoff_connect(struct pageferry_handoff *handoff) { return pageferry_handoff_hello(handoff, 0); }

/* ---- Regions --------------------------------------------------------------------------------------------------------------- */

static inline int pageferry_handoff_announce(struct pageferry_handoff *handoff, const struct pageferry_handoff_region *region) {
    unsigned char payload[PAGEFERRY_HANDOFF_MOST_PAYLOAD];
    struct pageferry_handoff_announcement announced;
    int descriptors[2];
    size_t name_bytes = strlen(region->name);
    size_t count = region->kind == PAGEFERRY_HANDOFF_REMOVED ? 0 : region->kind == PAGEFERRY_HANDOFF_SHARED ? 2 : 1;
    memset(&announced, 0, sizeof announced);
    announced.address = htole64(region->address);
    announced.length = htole64(region->length);
    announced.offset = htole64(region->offset);
    announced.page_size = htole32(region->page_size);
    announced.kind = htole16(region->kind);
    announced.modes = htole16(region->modes);
    announced.userfault_of = htole16(0xffff);
    announced.name_bytes = htole16((uint16_t)name_bytes);
    memcpy(payload, &announced, sizeof announced);
    memcpy(payload + sizeof announced, region->name, name_bytes);
    descriptors[0] = region->userfault;
    descriptors[1] = region->file;
    return pageferry_handoff_ask(handoff, PAGEFERRY_HANDOFF_REGION, payload, sizeof announced + name_bytes, descriptors, count);
}

/* A userfaultfd with its handshake made; -1 when none can be had. */
static inline int pageferry_handoff_userfault(struct pageferry_handoff *handoff, uint64_t required) {
    struct uffdio_api request;
    int flags = O_CLOEXEC | O_NONBLOCK;
    int userfault = (int)syscall(SYS_userfaultfd, flags);
    if (userfault < 0 && handoff->device >= 0) userfault = ioctl(handoff->device, USERFAULTFD_IOC_NEW, flags);
    if (userfault < 0) {
        int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
        if (device >= 0) {
            userfault = ioctl(device, USERFAULTFD_IOC_NEW, flags);
            close(device);
        }
    }
    if (userfault < 0) {
        return pageferry_handoff_fail(handoff, "may not open a userfaultfd: %s; run as root, set vm.unprivileged_userfaultfd=1, or "
            "give access to /dev/userfaultfd", strerror(errno));
    }
    memset(&request, 0, sizeof request);
    request.api = UFFD_API;
    request.features = required | UFFD_FEATURE_EVENT_REMOVE;
    if (ioctl(userfault, UFFDIO_API, &request) < 0) {
        pageferry_handoff_fail(
            handoff, "this kernel's userfaultfd cannot serve this memory: %s; use Linux 5.14 or later", strerror(errno));
        close(userfault);
        return -1;
    }
    return userfault;
}

/* Opens a userfaultfd and registers a region with it, or takes a copy of the one that is given. */
static inline int pageferry_handoff_register(struct pageferry_handoff *handoff, struct pageferry_handoff_region *region, int given) {
    struct uffdio_register registration;
    uint64_t features = 0;
    if (given >= 0) {
        region->userfault = fcntl(given, F_DUPFD_CLOEXEC, 3);
        return region->userfault >= 0 ? 0 : pageferry_handoff_fail(handoff, "no descriptor is left: %s", strerror(errno));
    }
    if (region->kind == PAGEFERRY_HANDOFF_SHARED) {
        features = region->page_size > (uint32_t)sysconf(_SC_PAGESIZE) ? UFFD_FEATURE_MISSING_HUGETLBFS | UFFD_FEATURE_MINOR_HUGETLBFS
                                                                       : UFFD_FEATURE_MISSING_SHMEM | UFFD_FEATURE_MINOR_SHMEM;
    }
    region->userfault = pageferry_handoff_userfault(handoff, features);
    if (region->userfault < 0) return -1;
    memset(&registration, 0, sizeof registration);
    registration.range.start = region->address;
    registration.range.len = region->length;
    registration.mode = region->modes;
    if (ioctl(region->userfault, UFFDIO_REGISTER, &registration) == 0) return 0;
    return pageferry_handoff_fail(
        handoff, "cannot register %llu bytes of '%s': %s; it must be anonymous, or of a file on tmpfs or hugetlbfs, or a memfd",
        (unsigned long long)region->length, region->name, strerror(errno));
}

static inline void pageferry_handoff_release(struct pageferry_handoff_region *region) {
    if (region->userfault >= 0) close(region->userfault);
    if (region->file >= 0) close(region->file);
    region->userfault = region->file = -1;
}

/* The page size of a memory file: on hugetlbfs the huge page's. */
static inline uint32_t pageferry_handoff_page_size(int file) {
    struct statfs system;
    if (file >= 0 && fstatfs(file, &system) == 0 && (uint32_t)system.f_type == 0x958458f6u) return (uint32_t)system.f_bsize;
    return (uint32_t)sysconf(_SC_PAGESIZE);
}

/* Hands memory over. Returns the region's number, from 0 on. */
static inline int pageferry_handoff_region(struct pageferry_handoff *handoff, const struct pageferry_handoff_memory *memory) {
    struct pageferry_handoff_region *region = &handoff->regions[handoff->region_count];
    if (handoff->region_count == PAGEFERRY_HANDOFF_MOST_REGIONS) {
        return pageferry_handoff_fail(handoff, "there are more than %d regions", PAGEFERRY_HANDOFF_MOST_REGIONS);
    }
    memset(region, 0, sizeof *region);
    region->page_size = memory->page_size != 0 ? memory->page_size : pageferry_handoff_page_size(memory->file);
    region->kind = memory->file >= 0 ? PAGEFERRY_HANDOFF_SHARED : PAGEFERRY_HANDOFF_ANONYMOUS;
    region->modes = (uint16_t)UFFDIO_REGISTER_MODE_MISSING;
    if (memory->file >= 0) region->modes = (uint16_t)(region->modes | UFFDIO_REGISTER_MODE_MINOR);
    region->address = (uint64_t)(uintptr_t)memory->address;
    region->length = ((uint64_t)memory->length + region->page_size - 1) / region->page_size * region->page_size;
    region->offset = memory->offset;
    region->userfault = region->file = -1;
    strncpy(region->name, memory->name, PAGEFERRY_HANDOFF_MOST_NAME);
    if (memory->file >= 0) region->file = fcntl(memory->file, F_DUPFD_CLOEXEC, 3);
    if (memory->file >= 0 && region->file < 0) pageferry_handoff_fail(handoff, "no descriptor is left: %s", strerror(errno));
    else if (pageferry_handoff_register(handoff, region, memory->userfault) == 0 && pageferry_handoff_announce(handoff, region) == 0) {
        return (int)handoff->region_count++;
    }
    pageferry_handoff_release(region);
    return -1;
}

/* Hands a mapping of a file over, which may be on hugetlbfs. */
static inline int pageferry_handoff_shared(
    struct pageferry_handoff *handoff, const char *name, void *address, size_t length, int file, uint64_t offset
) {
    struct pageferry_handoff_memory memory;
    memset(&memory, 0, sizeof memory);
    memory.name = name;
    memory.address = address;
    memory.length = length;
    memory.file = file;
    memory.offset = offset;
    memory.userfault = -1;
    return pageferry_handoff_region(handoff, &memory);
}

/* Hands anonymous memory over, of pages of the system's size. */
static inline int pageferry_handoff_anonymous(struct pageferry_handoff *handoff, const char *name, void *address, size_t length) {
    return pageferry_handoff_shared(handoff, name, address, length, -1, 0);
}

/* Says that all regions are in; back once they are served. */
static inline int pageferry_handoff_ready(struct pageferry_handoff *handoff) {
    struct pageferry_handoff_pair ready;
    ready.first = htole32(handoff->region_count);
    ready.second = 0;
    return pageferry_handoff_ask(handoff, PAGEFERRY_HANDOFF_READY, &ready, sizeof ready, NULL, 0);
}

/* ---- While the memory is served -------------------------------------------------------------------------------------------- */

/* Waits for the daemon's end, `timeout_milliseconds` at most; -1: for ever. An `enum pageferry_handoff_event`. */
static inline int pageferry_handoff_wait(struct pageferry_handoff *handoff, int timeout_milliseconds) {
    char text[PAGEFERRY_HANDOFF_MOST_TEXT + 1];
    struct pollfd waiting;
    uint32_t status;
    waiting.fd = handoff->connection;
    waiting.events = POLLIN;
    waiting.revents = 0;
    for (;;) {
        if (handoff->is_finished) return PAGEFERRY_HANDOFF_FINISHED;
        if (handoff->connection < 0) return PAGEFERRY_HANDOFF_ENDED;
        if (poll(&waiting, 1, timeout_milliseconds) <= 0) return PAGEFERRY_HANDOFF_NOTHING;
        if (pageferry_handoff_next(handoff, pageferry_handoff_deadline(handoff), &status, text) < 0) {
            pageferry_handoff_disconnect(handoff);
            return PAGEFERRY_HANDOFF_ENDED;
        }
    }
}

/* Hands everything over once more, to a daemon that takes over at the same path: call it again, after a pause, while that fails. */
static inline int pageferry_handoff_reattach(struct pageferry_handoff *handoff) {
    uint32_t index;
    int result = pageferry_handoff_hello(handoff, 1);
    for (index = 0; result == 0 && index < handoff->region_count; index++) {
        result = pageferry_handoff_announce(handoff, &handoff->regions[index]);
    }
    if (result == 0) result = pageferry_handoff_ready(handoff);
    if (result < 0) pageferry_handoff_disconnect(handoff);
    return result;
}

/* Takes a region out, whose memory nobody uses any more: 0 once the daemon holds nothing of it, and it may be freed. Fails when the
 * daemon does not answer in time; call it again then, the memory must stay mapped or its addresses unused meanwhile. */
static inline int pageferry_handoff_remove(struct pageferry_handoff *handoff, uint32_t number) {
    struct pageferry_handoff_region *region = &handoff->regions[number < handoff->region_count ? number : 0];
    struct pageferry_handoff_pair request;
    uint16_t kind = region->kind;
    if (number >= handoff->region_count) return pageferry_handoff_fail(handoff, "there is no region %u", (unsigned)number);
    if (handoff->version < 2) return pageferry_handoff_fail(handoff, "this page daemon cannot take a region out: it speaks version 1");
    /* Whatever becomes of the request: the daemon that takes over does not get it. */
    region->kind = PAGEFERRY_HANDOFF_REMOVED;
    request.first = htole32(number);
    request.second = 0;
    if (handoff->connection >= 0 && !handoff->is_finished
        && pageferry_handoff_ask(handoff, PAGEFERRY_HANDOFF_REMOVE, &request, sizeof request, NULL, 0) < 0 && !handoff->has_ended) {
        if (handoff->status != 0) region->kind = kind;
        return -1;
    }
    pageferry_handoff_release(region);
    return 0;
}

/* Lets go of everything. The daemon takes that for the end of this process, and pages that are missing read as zeros from then on. */
static inline void pageferry_handoff_close(struct pageferry_handoff *handoff) {
    uint32_t index;
    pageferry_handoff_disconnect(handoff);
    for (index = 0; index < handoff->region_count; index++) pageferry_handoff_release(&handoff->regions[index]);
    handoff->region_count = 0;
}

#endif
