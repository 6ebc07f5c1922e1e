// Our own Ascend C for a host compiler: the part of the basic interface that the kernels here use, for dav-2201. It is
// included under the vendor's name so that a kernel's source is the same for both.
#pragma once

#include "vector.h"
#include "rows.h"
#include "cube.h"
