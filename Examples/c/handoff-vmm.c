/* A VMM, as far as its memory is concerned: two slots of memory that a page daemon fills while they are used, of which one is
 * unplugged meanwhile. Nothing but pageferry-handoff.h is needed.
 *
 *   cc -o handoff-vmm handoff-vmm.c
 *   ./handoff-vmm SOCKET BYTES BYTES           prints a checksum of each slot that stays
 *
 * SOCKET is that of `pageferry destination --connect SOURCE --handoff SOCKET --state DIRECTORY`; the source serves one region of the
 * same length a slot. Between the slots it waits for a line on standard input. The daemon may be killed and started again at any
 * time: the loop below waits meanwhile, and never notices.
 */
#include <pageferry-handoff.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>

static struct pageferry_handoff handoff;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void fail(const char *what) {
    fprintf(stderr, "handoff-vmm: %s\n", what);
    exit(71);
}

/* Waits for the daemon's end without the lock; whatever is said on the connection is said under it. */
static void *keep_attached(void *unused) {
    for (;;) {
        struct pollfd daemon = { .fd = handoff.connection, .events = POLLIN };
        poll(&daemon, 1, handoff.connection < 0 ? 50 : -1);
        pthread_mutex_lock(&lock);
        int event = pageferry_handoff_wait(&handoff, 0);
        if (event == PAGEFERRY_HANDOFF_ENDED && pageferry_handoff_reattach(&handoff) == 0) fprintf(stderr, "attached again\n");
        pthread_mutex_unlock(&lock);
        if (event == PAGEFERRY_HANDOFF_FINISHED) return unused;
    }
}

int main(int count, char **arguments) {
    if (count < 3) fail("usage: handoff-vmm SOCKET BYTES...");
    pageferry_handoff_init(&handoff, arguments[1], 30000);
    if (pageferry_handoff_connect(&handoff) < 0) fail(handoff.error);
    volatile uint8_t *slots[PAGEFERRY_HANDOFF_MOST_REGIONS];
    size_t bytes[PAGEFERRY_HANDOFF_MOST_REGIONS];
    int slot_count = count - 2;
    for (int slot = 0; slot < slot_count; slot++) {
        bytes[slot] = strtoull(arguments[slot + 2], NULL, 0);
        int file = memfd_create("slot", MFD_CLOEXEC);
        if (file < 0 || ftruncate(file, (off_t)bytes[slot]) < 0) fail("memfd");
        slots[slot] = mmap(NULL, bytes[slot], PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        if (slots[slot] == MAP_FAILED) fail("mmap");
        if (pageferry_handoff_shared(&handoff, "slot", (void *)slots[slot], bytes[slot], file, 0) < 0) fail(handoff.error);
        close(file);
    }
    if (pageferry_handoff_ready(&handoff) < 0) fail(handoff.error);
    pthread_t keeper;
    if (pthread_create(&keeper, NULL, keep_attached, NULL) != 0) fail("pthread_create");

    /* The last slot is unplugged before the guest has used it. */
    fprintf(stderr, "ready to unplug\n");
    if (getchar() == EOF) fail("no line came");
    if (slot_count > 1) {
        pthread_mutex_lock(&lock);
        if (pageferry_handoff_remove(&handoff, (uint32_t)--slot_count) < 0) fail(handoff.error);
        pthread_mutex_unlock(&lock);
        munmap((void *)slots[slot_count], bytes[slot_count]);
        fprintf(stderr, "unplugged\n");
    }
    if (getchar() == EOF) fail("no line came");
    for (int slot = 0; slot < slot_count; slot++) {
        uint64_t checksum = 14695981039346656037u;
        for (size_t index = 0; index < bytes[slot]; index++) checksum = (checksum ^ slots[slot][index]) * 1099511628211u;
        printf("checksum %016" PRIx64 "\n", checksum);
        fflush(stdout);
    }
    pthread_join(keeper, NULL);
    pageferry_handoff_close(&handoff);
    return 0;
}
