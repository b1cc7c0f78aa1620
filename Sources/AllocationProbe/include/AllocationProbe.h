#ifndef PAGEFERRY_ALLOCATION_PROBE_H
#define PAGEFERRY_ALLOCATION_PROBE_H

#include <stdint.h>

// Counts the heap allocations of the program it is preloaded into. `bench allocations` finds it by this name.
// which: 0, all threads; 1, the threads of the page path ("fault-shard", "source-shard").
uint64_t pageferry_allocation_count(int which);

#endif
