#ifndef PAGEFERRY_FAULT_PROBE_H
#define PAGEFERRY_FAULT_PROBE_H
// Preloaded into a VMM that serves its own faults, it times each from the read of its event to the system call that
// makes the page visible, and writes the nanoseconds, one a line, to $PAGEFERRY_PROBE_OUTPUT when the process ends.
// Only for measuring peers; nothing in PageFerry uses it.
#endif
