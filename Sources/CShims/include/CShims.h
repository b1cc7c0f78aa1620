#ifndef PAGEFERRY_CSHIMS_H
#define PAGEFERRY_CSHIMS_H
// What Swift's importer cannot see of the kernel's and libraries' headers: one header a kernel interface, and each
// shim says why it is here. Everything is inline; nothing in this module holds state.

#include "CShimsUring.h"
#include "CShimsUserfault.h"
#include "CShimsMemory.h"
#include "CShimsSocket.h"
#include "CShimsHandoff.h"
#include "CShimsService.h"
#include "CShimsThread.h"
#include "CShimsProcess.h"
#include "CShimsVerbs.h"

#endif
