// Interposes read and ioctl. In C because a preload library must not carry a runtime of its own.
#define _GNU_SOURCE
#include "FaultProbe.h"

#include <linux/ioctl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MOST_WAITING 4096
#define MOST_SAMPLES (1 << 20)
#define PAGE_MASK (~(uint64_t)4095)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
// The userfaultfd, once its handshake has been seen.
static int userfault = -1;
// Guarded by the lock: pages that wait, and when their events were read; finished times.
static struct { uint64_t page, start; } waiting[MOST_WAITING];
static int waiting_count;
static uint64_t *samples;
static int sample_count;

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void begin(uint64_t page, uint64_t start) {
    for (int index = 0; index < waiting_count; index++) {
        if (waiting[index].page == page) return;
    }
    if (waiting_count == MOST_WAITING) return;
    waiting[waiting_count].page = page;
    waiting[waiting_count++].start = start;
}

static void end(uint64_t first, uint64_t length) {
    uint64_t time = now();
    pthread_mutex_lock(&lock);
    for (int index = 0; index < waiting_count; index++) {
        if (waiting[index].page < first || waiting[index].page >= first + length) continue;
        if (samples == NULL) samples = malloc(sizeof *samples * MOST_SAMPLES);
        if (samples != NULL && sample_count < MOST_SAMPLES) samples[sample_count++] = time - waiting[index].start;
        waiting[index--] = waiting[--waiting_count];
    }
    pthread_mutex_unlock(&lock);
}

__attribute__((visibility("default"))) ssize_t read(int descriptor, void *buffer, size_t length) {
    ssize_t count = syscall(SYS_read, descriptor, buffer, length);
    if (descriptor != userfault || userfault < 0 || count <= 0) return count;
    uint64_t time = now();
    pthread_mutex_lock(&lock);
    const struct uffd_msg *messages = buffer;
    for (size_t index = 0; index < (size_t)count / sizeof *messages; index++) {
        if (messages[index].event == UFFD_EVENT_PAGEFAULT) begin(messages[index].arg.pagefault.address & PAGE_MASK, time);
    }
    pthread_mutex_unlock(&lock);
    return count;
}

__attribute__((visibility("default"))) int ioctl(int descriptor, unsigned long request, ...) {
    va_list arguments;
    va_start(arguments, request);
    void *argument = va_arg(arguments, void *);
    va_end(arguments);
    int result = (int)syscall(SYS_ioctl, descriptor, request, argument);
    if (result < 0) return result;
    if (request == UFFDIO_API) {
        userfault = descriptor;
    } else if (descriptor == userfault && request == UFFDIO_COPY) {
        const struct uffdio_copy *copy = argument;
        end(copy->dst, copy->len);
    } else if (descriptor == userfault && request == UFFDIO_ZEROPAGE) {
        const struct uffdio_zeropage *zero = argument;
        end(zero->range.start, zero->range.len);
    }
    return result;
}

__attribute__((destructor)) static void report(void) {
    const char *path = getenv("PAGEFERRY_PROBE_OUTPUT");
    FILE *file = path == NULL ? NULL : fopen(path, "w");
    if (file == NULL) return;
    for (int index = 0; index < sample_count; index++) fprintf(file, "%llu\n", (unsigned long long)samples[index]);
    fclose(file);
}
