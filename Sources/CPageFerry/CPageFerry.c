#include "pageferry.h"
#include "pageferry_error_buffer.h"

// Swift has no thread-local storage that outlives no thread and needs no allocation.
static _Thread_local char error_buffer[PAGEFERRY_ERROR_BUFFER_BYTES];

char *pageferry_internal_error_buffer(void) { return error_buffer; }
