#ifndef PAGEFERRY_CSHIMS_URING_H
#define PAGEFERRY_CSHIMS_URING_H

// liburing.h defines _XOPEN_SOURCE 500, which narrows what later system headers declare and clashes with Swift's
// Glibc module. <features.h> first fixes the feature macros before that definition is seen.
#include <features.h>
#include <liburing.h>

#endif
