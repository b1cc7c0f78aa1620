#ifndef PAGEFERRY_PRELOAD_SHIM_H
#define PAGEFERRY_PRELOAD_SHIM_H

// The preload library interposes mmap and mmap64; it has no interface of its own beyond its environment:
//
// PAGEFERRY_HANDOFF                 path of the daemon's hand-off socket; without it the library does nothing
// PAGEFERRY_RAM                     colon-separated: memory files or their directories as on the VMM's command line, memfd:NAME
// PAGEFERRY_RAM_MIN_BYTES           the least length of a mapping that counts as guest RAM
// PAGEFERRY_RAM_COUNT               how many mappings make the whole RAM (default: the entries of PAGEFERRY_RAM, or 1)
// PAGEFERRY_HANDOFF_TIMEOUT_SECONDS how long to wait for each answer of the daemon (default 30)
// PAGEFERRY_USERFAULTFD_DEVICE      number of an inherited descriptor of /dev/userfaultfd

#endif
