#ifndef PAGEFERRY_CSHIMS_SOCKET_H
#define PAGEFERRY_CSHIMS_SOCKET_H

#include <features.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

// `sun_path` is an array of 108 chars, which Swift sees as a tuple of 108 values. Returns the address's length, or 0
// when the path does not fit.
static inline socklen_t CShimsSocket_unixAddress(struct sockaddr_un *address, const char *path, size_t pathBytes) {
    if (pathBytes == 0 || pathBytes >= sizeof(address->sun_path))
        return 0;
    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, pathBytes);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + pathBytes + 1);
}

// `struct ucred` is declared only with _GNU_SOURCE, which the importer does not set. The kernel's layout is these
// three 32-bit integers: process, user, group.
struct CShimsSocketPeer {
    int32_t process;
    uint32_t user;
    uint32_t group;
};
static inline int CShimsSocket_peer(int descriptor, struct CShimsSocketPeer *peer) {
    socklen_t length = sizeof(*peer);
    return getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, peer, &length);
}

// `strerror_r` exists in two forms, chosen by macros the importer does not set; `strerror` is not safe with threads.
extern const char *strerrordesc_np(int number);
static inline const char *CShimsSocket_errorText(int number) {
    const char *text = strerrordesc_np(number);
    return text ? text : "unknown error";
}

#endif
