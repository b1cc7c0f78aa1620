#ifndef PAGEFERRY_CSHIMS_SERVICE_H
#define PAGEFERRY_CSHIMS_SERVICE_H
// The service manager's socket (sd_notify(3)): its address may begin with a NUL byte, which no Swift string carries.

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

// A datagram socket connected to `path`, where a leading '@' stands for the abstract namespace; or -errno.
static inline int pageferry_service_connect(const char *path) {
    struct sockaddr_un address;
    size_t length = strlen(path);
    memset(&address, 0, sizeof address);
    address.sun_family = AF_UNIX;
    if ((path[0] != '/' && path[0] != '@') || length < 2 || length >= sizeof address.sun_path) return -EINVAL;
    memcpy(address.sun_path, path, length);
    if (path[0] == '@') address.sun_path[0] = 0;
    int descriptor = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0) return -errno;
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
    if (connect(descriptor, (struct sockaddr *)&address, size) < 0) {
        int code = errno;
        close(descriptor);
        return -code;
    }
    return descriptor;
}

// One datagram with at most one descriptor; waits where the manager's queue is full, as sd_notify(3) does. 0, or -errno.
static inline int pageferry_service_send(int socket, const void *buffer, size_t length, const int32_t *descriptors, int32_t count) {
    union {
        char bytes[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec vector = { (void *)buffer, length };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
    if (count > 1) return -EINVAL;
    if (count == 1) {
        memset(&control, 0, sizeof control);
        message.msg_control = control.bytes;
        message.msg_controllen = CMSG_SPACE(sizeof(int));
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), descriptors, sizeof(int));
    }
    ssize_t sent;
    do sent = sendmsg(socket, &message, MSG_NOSIGNAL); while (sent < 0 && errno == EINTR);
    return sent < 0 ? -errno : 0;
}

#endif
