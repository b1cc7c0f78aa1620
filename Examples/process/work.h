/* What worker.c begins and resume.c goes on with: a checksum over memory of three kinds, which rewrites that memory as it goes.
 *
 * All that the computation knows lies in memory, at the addresses it began with. It may stop anywhere, as a process that is stopped
 * does: a step reads one page and fills another, of another kind, and only then says that it is done. Whoever goes on begins the step
 * anew and comes to the same.
 */
#ifndef WORK_H
#define WORK_H
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stddef.h>

enum { KINDS = 3, PAGE_BYTES = 4096, PAGE_WORDS = PAGE_BYTES / 8 };

struct work {
    uint64_t pages;                      /* of each kind */
    uint64_t steps;
    volatile uint64_t *memory[KINDS];    /* private, shared without a name, a memfd */
    struct { uint64_t step, sum; } state[2];
    volatile uint64_t current;           /* which of the two is in force */
};

static uint64_t mix(uint64_t value) {
    value = (value ^ value >> 31) * 0x9e3779b97f4a7c15u;
    return value ^ value >> 29;
}

static uint64_t add_up(uint64_t sum, const volatile uint64_t *words, uint64_t count) {
    for (uint64_t word = 0; word < count; word++) sum = (sum ^ words[word]) * 1099511628211u;
    return sum;
}

/* Does what steps are left, and returns the checksum. In the middle of step `stop_at` it stops its own process. */
static uint64_t go_on(struct work *work, uint64_t stop_at) {
    while (work->state[work->current].step < work->steps) {
        uint64_t step = work->state[work->current].step;
        const volatile uint64_t *from = work->memory[step % KINDS] + mix(step) % work->pages * PAGE_WORDS;
        volatile uint64_t *to = work->memory[(step + 1) % KINDS] + mix(~step) % work->pages * PAGE_WORDS;
        uint64_t sum = add_up(work->state[work->current].sum, from, PAGE_WORDS);
        for (int word = 0; word < PAGE_WORDS; word++) {
            to[word] = mix(sum + (uint64_t)word);
            if (step == stop_at && word == PAGE_WORDS / 2) raise(SIGSTOP);
        }
        uint64_t next = 1 - work->current;
        work->state[next].step = step + 1;
        work->state[next].sum = sum;
        __atomic_store_n(&work->current, next, __ATOMIC_SEQ_CST);
    }
    uint64_t sum = work->state[work->current].sum;
    for (int kind = 0; kind < KINDS; kind++) sum = add_up(sum, work->memory[kind], work->pages * PAGE_WORDS);
    return sum;
}

#endif
