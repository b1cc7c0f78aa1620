#include "pageferry-handoff.h"
