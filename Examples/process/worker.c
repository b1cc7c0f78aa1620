/* A process whose memory is to move: it computes a checksum over memory of three kinds (work.h).
 *
 *   cc -o worker worker.c
 *   ./worker PAGES STEPS [STOP-AT]       says where its state is; with STOP-AT it stops itself in the middle of that step
 */
#include "work.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { MOST_PAGES = 4096 };

/* Private memory behind the program's own data. */
static uint64_t own[MOST_PAGES * PAGE_WORDS];
static struct work work;

static void fail(const char *what) {
    perror(what);
    exit(71);
}

int main(int count, char **arguments) {
    if (count < 3 || (work.pages = strtoull(arguments[1], NULL, 0)) < 1 || work.pages > MOST_PAGES) {
        fprintf(stderr, "usage: worker PAGES STEPS [STOP-AT], at most %d pages\n", MOST_PAGES);
        return 64;
    }
    work.steps = strtoull(arguments[2], NULL, 0);
    size_t bytes = work.pages * PAGE_BYTES;
    void *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int file = memfd_create("a name with spaces", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)bytes) < 0) fail("memfd");
    void *of_file = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (shared == MAP_FAILED || of_file == MAP_FAILED) fail("mmap");
    work.memory[0] = own;
    work.memory[1] = shared;
    work.memory[2] = of_file;
    /* Half of it is written to before it begins; the rest are zeros until a step fills them. */
    for (int kind = 0; kind < KINDS; kind++)
        for (uint64_t word = 0; word < work.pages / 2 * PAGE_WORDS; word++) work.memory[kind][word] = mix(word * KINDS + (uint64_t)kind);
    printf("state %" PRIxPTR "\n", (uintptr_t)&work);
    fflush(stdout);
    printf("done %016" PRIx64 "\n", go_on(&work, count > 3 ? strtoull(arguments[3], NULL, 0) : UINT64_MAX));
    return 0;
}
