#ifndef PAGEFERRY_CSHIMS_HANDOFF_H
#define PAGEFERRY_CSHIMS_HANDOFF_H

// Unix sockets that carry descriptors: the CMSG_* macros, struct ucred (under _GNU_SOURCE) and sockaddr_un's inline
// path are out of the importer's reach.

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

// More descriptors than any message may carry, so that one too many is seen and closed, not silently dropped.
#define PAGEFERRY_HANDOFF_MOST_DESCRIPTORS 8

// What one recvmsg(2) brought: bytes, or -errno; the descriptors that came along; whether some were cut off.
struct pageferry_handoff_received {
    int64_t bytes;
    int32_t count;
    int32_t cut_off;
    int32_t descriptors[PAGEFERRY_HANDOFF_MOST_DESCRIPTORS];
};

static inline struct pageferry_handoff_received pageferry_handoff_receive(int socket, void *buffer, size_t length) {
    struct pageferry_handoff_received received = { 0 };
    union {
        char bytes[CMSG_SPACE(sizeof(int) * PAGEFERRY_HANDOFF_MOST_DESCRIPTORS)];
        struct cmsghdr align;
    } control;
    struct iovec vector = { buffer, length };
    struct msghdr message = {
        .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes,
    };
    ssize_t count;
    // MSG_CMSG_CLOEXEC (0x40000000) is under _GNU_SOURCE.
    do count = recvmsg(socket, &message, 0x40000000 | MSG_DONTWAIT); while (count < 0 && errno == EINTR);
    received.bytes = count < 0 ? -errno : count;
    if (count < 0) return received;
    received.cut_off = (message.msg_flags & MSG_CTRUNC) != 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header != NULL; header = CMSG_NXTHDR(&message, header)) {
        if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
        size_t bytes = header->cmsg_len - CMSG_LEN(0);
        size_t room = sizeof received.descriptors - sizeof(int) * (size_t)received.count;
        if (bytes > room) bytes = room;
        memcpy(received.descriptors + received.count, CMSG_DATA(header), bytes);
        received.count += (int32_t)(bytes / sizeof(int));
    }
    return received;
}

// Bytes sent, or -errno. `descriptors` go with the first byte.
static inline int64_t pageferry_handoff_send(
    int socket, const void *buffer, size_t length, const int32_t *descriptors, int32_t count
) {
    union {
        char bytes[CMSG_SPACE(sizeof(int) * PAGEFERRY_HANDOFF_MOST_DESCRIPTORS)];
        struct cmsghdr align;
    } control;
    struct iovec vector = { (void *)buffer, length };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
    if (count > PAGEFERRY_HANDOFF_MOST_DESCRIPTORS) return -EINVAL;
    if (count > 0) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)count);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
        memcpy(CMSG_DATA(header), descriptors, sizeof(int) * (size_t)count);
    }
    ssize_t sent;
    do sent = sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT); while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : sent;
}

static inline int pageferry_unix_address(const char *path, struct sockaddr_un *address) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    if (strlen(path) >= sizeof address->sun_path) return -ENAMETOOLONG;
    strcpy(address->sun_path, path);
    return 0;
}

static inline int pageferry_unix_bind(int socket, const char *path) {
    struct sockaddr_un address;
    int answer = pageferry_unix_address(path, &address);
    if (answer < 0) return answer;
    return bind(socket, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
}

static inline int pageferry_unix_connect(int socket, const char *path) {
    struct sockaddr_un address;
    int answer = pageferry_unix_address(path, &address);
    if (answer < 0) return answer;
    return connect(socket, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : 0;
}

// accept4(2) is under _GNU_SOURCE. A connected descriptor, close-on-exec and non-blocking, or -errno.
static inline int pageferry_unix_accept(int socket) {
    long connected = syscall(SYS_accept4, (long)socket, 0L, 0L, (long)(SOCK_CLOEXEC | SOCK_NONBLOCK));
    return connected < 0 ? -errno : (int)connected;
}

// SO_PEERCRED's process, user and group of a connected socket. 0 or -errno.
static inline int pageferry_unix_peer(int socket, int32_t *process, uint32_t *user, uint32_t *group) {
    struct { int32_t process; uint32_t user; uint32_t group; } credentials;
    socklen_t length = sizeof credentials;
    if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length) < 0) return -errno;
    *process = credentials.process;
    *user = credentials.user;
    *group = credentials.group;
    return 0;
}

// A pidfd of the process at the other end of a unix socket, or -errno. SO_PEERPIDFD (77, Linux 6.5) cannot hit another process
// that was given the number since; `process` is that number, from SO_PEERCRED, for kernels without it.
static inline int pageferry_unix_peer_descriptor(int socket, int32_t process) {
    int descriptor = -1;
    socklen_t length = sizeof descriptor;
    if (getsockopt(socket, SOL_SOCKET, 77, &descriptor, &length) == 0) return descriptor;
    if (process <= 0) return -ESRCH;
    long opened = syscall(SYS_pidfd_open, (long)process, 0L);
    return opened < 0 ? -errno : (int)opened;
}

#endif
