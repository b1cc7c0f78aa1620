#ifndef PAGEFERRY_ERROR_BUFFER_H
#define PAGEFERRY_ERROR_BUFFER_H
// Not part of the library's interface, and not installed.

enum { PAGEFERRY_ERROR_BUFFER_BYTES = 1024 };

// This thread's error text, terminated.
char *pageferry_internal_error_buffer(void);

#endif
