// The VMM's side of the native hand-off, as pageferry-handoff.h has it: connects, hands one region over at a time, says that it is
// ready. Uses the stack only: the caller may be in the middle of an allocation. Once the memory is served a thread watches the
// daemon; when it dies, everything is handed over again to the one that takes its place, while the guest waits for its pages.

#include "pageferry-handoff.h"
#include "ShimInternal.h"

#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>

static struct pageferry_handoff handoff;

_Noreturn static void die(void) {
    int lacks_permission = strstr(handoff.error, "/dev/userfaultfd") != NULL;
    shim_die("%s%s", handoff.error, lacks_permission ? ", or inherit it as PAGEFERRY_USERFAULTFD_DEVICE" : "");
}

void shim_handoff_configure(const char *path, const char *device, const char *timeout_seconds) {
    if (strlen(path) >= sizeof handoff.path) shim_die("PAGEFERRY_HANDOFF='%s' is too long for a unix socket", path);
    uint64_t seconds = shim_number("PAGEFERRY_HANDOFF_TIMEOUT_SECONDS", timeout_seconds, 30);
    if (seconds < 1 || seconds > 86400) shim_die("PAGEFERRY_HANDOFF_TIMEOUT_SECONDS must lie between 1 and 86400");
    pageferry_handoff_init(&handoff, path, (int)seconds * 1000);
    // The VMM knows nothing of us, so nothing is ever taken out.
    handoff.newest = 1;
    if (device != NULL) handoff.device = (int)shim_number("PAGEFERRY_USERFAULTFD_DEVICE", device, 0);
}

void shim_handoff_region(const struct shim_region *region) {
    char name[16];
    snprintf(name, sizeof name, "ram%u", handoff.region_count);
    if (handoff.connection < 0 && pageferry_handoff_connect(&handoff) < 0) die();
    if (pageferry_handoff_shared(&handoff, name, region->address, region->length, region->file, (uint64_t)region->offset) < 0) die();
}

int shim_handoff_has(int file) {
    struct stat given, known;
    if (fstat(file, &given) < 0) return 0;
    for (uint32_t index = 0; index < handoff.region_count; index++) {
        if (fstat(handoff.regions[index].file, &known) == 0 && known.st_dev == given.st_dev && known.st_ino == given.st_ino) return 1;
    }
    return 0;
}

// Waits for the daemon's end, then for the next one, for as long as the VMM lives.
static void *keep_attached(void *unused) {
    (void)unused;
    int pause_milliseconds = 20;
    for (;;) {
        if (pageferry_handoff_wait(&handoff, -1) != PAGEFERRY_HANDOFF_ENDED) continue;
        if (pageferry_handoff_reattach(&handoff) == 0) {
            pause_milliseconds = 20;
            continue;
        }
        // Nothing tells when the next daemon listens; a socket that is not there yet has no event.
        poll(NULL, 0, pause_milliseconds);
        if (pause_milliseconds < 1000) pause_milliseconds *= 2;
    }
    return NULL;
}

void shim_handoff_ready(uint32_t count) {
    (void)count;
    if (pageferry_handoff_ready(&handoff) < 0) die();
    // The VMM's signals are none of the thread's business.
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t keeper;
    if (pthread_create(&keeper, NULL, keep_attached, NULL) == 0) pthread_detach(keeper);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}
