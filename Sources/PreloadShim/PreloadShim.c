#include "PreloadShim.h"
