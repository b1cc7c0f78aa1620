/* PageFerry: moves a running machine's memory to another host after it has resumed there (post-copy).
 *
 * The library is the engine of the page daemon: a source serves memory, a destination fills memory that is registered with a
 * userfaultfd, demanded pages first. Link with `pkg-config --cflags --libs pageferry`.
 *
 * Handles are positive numbers, unique in a process; one that was closed is refused, never dangling. Functions that return
 * int32_t or int64_t return a negative `pageferry_error` when they fail, and pageferry_error_text() says why in one line.
 *
 * Threads: any function may be called from any thread, at any time. Each session has threads of its own; nothing of the caller's
 * is ever called. pageferry_next_event() and pageferry_close() wait; pageferry_destination_open() waits for the network; the others
 * do not, but for the names that they look up. A process that forks must not use the library in the child, and no function is safe in a signal handler.
 *
 * A thread that touches a missing page waits until a session's thread has filled it. So whoever calls the library must not hold,
 * while it touches such memory, what its own other threads need to call the library.
 *
 * Structures begin with their size in bytes (`sizeof`), set by the caller: later versions only add fields at the end, and take the
 * sizes of earlier ones as if the new fields were 0.
 *
 * Adopted sockets: a program that has connections to its peer already, such as a migration's once its machine state is across, has a
 * session carried by them in place of `listen` and `connect`. One connected stream socket a lane, of any kind: the urgent lane's
 * first, those of bulk lanes behind it, 16 at most; a single one carries everything, but demanded pages then wait behind pushed ones
 * on their way. The other side adopts their other ends, all of them. The next byte to be read from each must be the session's first:
 * what was said before has been read. A function that takes them and succeeds owns them: they are closed by the library, and the
 * caller forgets their numbers. When it fails they stay the caller's, to be closed, for a session may have begun on them in vain.
 * O_NONBLOCK and time-outs are switched off on them. A link that is lost pauses both sides as any other does, for
 * `give_up_after_seconds`: the destination looks for its source at `connect` where that was given too, and goes on over new sockets
 * when it gets some from pageferry_destination_adopt(), whose other ends pageferry_source_adopt() gets.
 */
#ifndef PAGEFERRY_H
#define PAGEFERRY_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PAGEFERRY_VERSION_MAJOR 0
#define PAGEFERRY_VERSION_MINOR 2
#define PAGEFERRY_VERSION_PATCH 0

/* What went wrong, negative. */
enum pageferry_error {
    PAGEFERRY_ERROR_ARGUMENT = -1,    /* an argument cannot be: NULL, a wrong size, a value out of bounds */
    PAGEFERRY_ERROR_HANDLE = -2,      /* no open handle, or one of the other side */
    PAGEFERRY_ERROR_CONNECT = -3,     /* the peer cannot be reached, or the address cannot be used */
    PAGEFERRY_ERROR_PROTOCOL = -4,    /* the peer speaks another protocol or version, or broke its rules */
    PAGEFERRY_ERROR_MISMATCH = -5,    /* the memory here and there differ in number, size or page size */
    PAGEFERRY_ERROR_MEMORY = -6,      /* memory cannot be mapped, read or filled; not a userfaultfd, or not registered */
    PAGEFERRY_ERROR_TRUST = -7,       /* credentials are missing, unusable, or refused */
    PAGEFERRY_ERROR_LINK = -8,        /* the link was lost, and looking for the peer was given up */
    PAGEFERRY_ERROR_PEER = -9,        /* the peer ended the session; the text says why */
    PAGEFERRY_ERROR_PROCESS = -10,    /* the process whose memory it is has ended */
    PAGEFERRY_ERROR_CANCELLED = -11,  /* pageferry_close() or pageferry_end() was called */
    PAGEFERRY_ERROR_SYSTEM = -12      /* the kernel refused something else; the text has its error */
};

/* How pages travel. Both sides say the same, or one of them AUTO. RDMA carries no encryption: beyond loopback it needs `insecure`. */
enum pageferry_transport {
    PAGEFERRY_TRANSPORT_STREAM = 0,   /* TCP or unix sockets */
    PAGEFERRY_TRANSPORT_RDMA = 1,     /* demanded pages by one-sided reads; needs an address of an RDMA device, and pins the memory */
    PAGEFERRY_TRANSPORT_AUTO = 2      /* a source offers both; a destination tries RDMA first */
};

/* How lanes between hosts are protected: all NULL and 0 is plain, allowed on loopback and unix sockets alone. */
struct pageferry_security {
    const char *pre_shared_key_path;  /* a file that only its owner may read; or the three below */
    const char *certificate_path;     /* PEM, with the chain */
    const char *key_path;             /* PEM */
    const char *authority_path;       /* PEM */
    const char *peer_name;            /* the name the peer's certificate must carry; NULL: the host connected to,
                                         any at a source; needed for adopted sockets without one */
    int32_t insecure;                 /* 1: let memory cross a network in the clear */
    int32_t reserved;                 /* 0 */
};

/* A region of memory that a source serves: part of a file (also of a memfd, or of hugetlbfs). Must not change meanwhile. */
struct pageferry_source_region {
    const char *name;
    int32_t memory_descriptor;        /* readable; stays the caller's */
    int32_t reserved;                 /* 0 */
    uint64_t file_offset;             /* bytes, whole pages */
    uint64_t length_bytes;            /* whole pages, not 0 */
};

struct pageferry_source_options {
    uint32_t size;                    /* sizeof (struct pageferry_source_options) */
    uint32_t region_count;
    const struct pageferry_source_region *regions;
    const char *listen;               /* "HOST:PORT" (port 0: any), "[IPV6]:PORT" or "unix:PATH"; NULL: adopted sockets alone */
    const struct pageferry_security *security; /* NULL: plain */
    uint32_t most_sessions;           /* at once; 0: 64 */
    uint32_t give_up_after_seconds;   /* a session whose link is lost; 0: 600 */
    /* since 0.2 */
    const int32_t *adopted_descriptors; /* of one destination, beside those that `listen` brings; NULL: none */
    uint32_t adopted_count;
    int32_t transport;                /* enum pageferry_transport, of `listen`; 0: streams */
};

/* A region that a destination fills, in the order of the source's regions. */
struct pageferry_destination_region {
    const char *name;
    uint64_t address;                 /* where it faults: whole pages, in the process that registered it */
    uint64_t length_bytes;            /* whole pages, not 0 */
    uint32_t page_size_bytes;         /* 4096 or 2097152 */
    int32_t userfault_descriptor;     /* registered for missing faults, for shared memory for minor faults too; stays the caller's */
    int32_t memory_descriptor;        /* of shared memory: its file, read and write; -1: anonymous memory */
    int32_t reserved;                 /* 0 */
    uint64_t file_offset;             /* of shared memory: where the region begins in its file */
};

struct pageferry_destination_options {
    uint32_t size;                    /* sizeof (struct pageferry_destination_options) */
    uint32_t region_count;
    const struct pageferry_destination_region *regions;
    const char *connect;              /* the source's address, as above; NULL: adopted sockets alone */
    const struct pageferry_security *security; /* NULL: plain */
    uint32_t bulk_lanes;              /* connections for the push beside the urgent one, at most 15 */
    uint32_t window_bytes;            /* fetched around a demanded page, 4096 to 2097152; 0: 65536 */
    int32_t no_push;                  /* 1: only what is demanded, and its windows */
    int32_t give_up_after_seconds;    /* look for a lost source so long; -1: for ever; 0: not at all */
    /* since 0.2 */
    const int32_t *adopted_descriptors; /* carry the session; `connect` is where to look once they are lost; NULL: none */
    uint32_t adopted_count;           /* lanes; `bulk_lanes` is for `connect` */
    int32_t transport;                /* enum pageferry_transport, of `connect`; 0: streams */
};

enum pageferry_event_kind {
    PAGEFERRY_EVENT_SERVING = 1,      /* destination: pages are being served */
    PAGEFERRY_EVENT_PAUSED = 2,       /* the link was lost and the peer is looked for; the text says why */
    PAGEFERRY_EVENT_RESTORED = 3,     /* the peer was found again */
    PAGEFERRY_EVENT_ALL_RESIDENT = 4, /* every page is at the destination */
    PAGEFERRY_EVENT_ENDED = 5,        /* a session is over: `status` is 0 or an error; a destination's last event */
    PAGEFERRY_EVENT_BEGUN = 6,        /* source: a destination pulls; the text is its address */
    PAGEFERRY_EVENT_REFUSED = 7       /* source: somebody was sent away; the text says who and why */
};

struct pageferry_event {
    uint32_t size;                    /* sizeof (struct pageferry_event) */
    int32_t kind;                     /* enum pageferry_event_kind; kinds to come are to be ignored */
    int32_t status;                   /* of ENDED: 0, or enum pageferry_error */
    uint32_t session;                 /* at a source: the number of the destination, from 1; else 0 */
    char text[496];                   /* one line for people, terminated; may be empty */
};

/* What a session has done so far; of a source, all its sessions together. */
struct pageferry_statistics {
    uint32_t size;                    /* sizeof (struct pageferry_statistics) */
    uint32_t sessions;                /* running; of a destination 0 or 1 */
    uint64_t total_pages, missing_pages;
    uint64_t demanded_pages, window_pages, pushed_pages, zero_pages;
    uint64_t faults;                  /* destination: faults read; source: requests received */
    uint64_t waiting_faults;
    uint64_t pauses;
    uint64_t fault_p50_nanoseconds, fault_p99_nanoseconds, fault_max_nanoseconds;
};

/* "0.2.0", of the library that was loaded. */
const char *pageferry_version(void);

/* Why the last call of this thread failed: one line, terminated, cut to `size` bytes. Returns the bytes it needs, the terminator
 * included. */
size_t pageferry_error_text(char *buffer, size_t size);

/* Serves memory until it is closed, to any number of destinations. Returns a handle, or an error. */
int64_t pageferry_source_open(const struct pageferry_source_options *options);

/* Where it listens, with the port in force, or an empty text when nowhere: terminated, cut to `size` bytes. Returns the bytes it
 * needs, or an error. */
int32_t pageferry_source_address(int64_t source, char *buffer, size_t size);

/* Serves who comes over these sockets too, adopted as above: one more destination, or one that had lost its link. Returns at once;
 * BEGUN, RESTORED or REFUSED follows when their other side speaks. Since 0.2. */
int32_t pageferry_source_adopt(int64_t source, const int32_t *descriptors, uint32_t count);

/* Connects to a source and fills memory from it, from then on. The memory must be registered, and nobody may have touched it.
 * Returns a handle, or an error: then nothing of the memory was changed. */
int64_t pageferry_destination_open(const struct pageferry_destination_options *options);

/* Looks for the source at another address, from the next time the link is lost; at once when it is lost now. */
int32_t pageferry_destination_recover(int64_t destination, const char *connect);

/* Goes on over these sockets, adopted as above, when the link is lost; leaves a link that works for them. When they do not lead to
 * the source, it is looked for at the address that is known, if any. Refused where `give_up_after_seconds` is 0. Since 0.2. */
int32_t pageferry_destination_adopt(int64_t destination, const int32_t *descriptors, uint32_t count);

/* A descriptor that is readable while events wait; it stays the library's. */
int32_t pageferry_event_descriptor(int64_t handle);

/* The oldest event, waiting for one: -1 milliseconds for ever. Returns 1, 0 when there was none in time, or an error. */
int32_t pageferry_next_event(int64_t handle, int32_t timeout_milliseconds, struct pageferry_event *event);

int32_t pageferry_read_statistics(int64_t handle, struct pageferry_statistics *statistics);

/* Ends what runs, without waiting: ENDED follows. Whoever waits for a page of a destination that ends early waits for ever. */
int32_t pageferry_end(int64_t handle);

/* Ends what runs, waits for it, and gives the handle back. */
int32_t pageferry_close(int64_t handle);

#ifdef __cplusplus
}
#endif

#endif
