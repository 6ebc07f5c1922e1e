/* A driver that answers what the environment says, for tests of what is said about drivers. It has one GPU and does
   nothing with it. Only functions that the tests reach are here: others are missing, as from an older driver. */
#include <stdio.h>
#include <stdlib.h>

static int setting(const char *name, int otherwise) {
    const char *value = getenv(name);
    return value ? atoi(value) : otherwise;
}

int cuInit(unsigned flags) {
    (void)flags;
    return setting("STUB_INIT", 0);
}

int cuDriverGetVersion(int *version) {
    *version = setting("STUB_VERSION", 13000);
    return 0;
}

int cuDeviceGetCount(int *count) {
    *count = setting("STUB_COUNT", 1);
    return 0;
}

int cuDeviceGet(int *device, int index) {
    *device = index;
    return 0;
}

int cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, length, "Stub %d", device);
    return 0;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
    (void)device;
    *bytes = (size_t)8 << 30;
    return 0;
}

/* Seven arguments: more than registers hold, of all widths, to see that an entry point passes them on. */
int cuMemcpyPeerAsync(unsigned long long to, void *to_context, unsigned long long from, void *from_context, size_t bytes,
                      void *stream, int more) {
    return to == 1 && to_context == (void *)2 && from == 3 && from_context == (void *)4 && bytes == 5 &&
                   stream == (void *)6 && more == 7
               ? 77
               : 1;
}

/* What candle calls to open a device succeeds and does nothing; memory it has none. The one file is the driver and the
   toolkit's libraries alike. */
#include "succeeds.h"
SUCCEEDS(cuCtxGetCurrent)
SUCCEEDS(cuDeviceGetAttribute)
SUCCEEDS(cuEventCreate)
SUCCEEDS(cuStreamCreate)
SUCCEEDS(cuStreamIsCapturing)

int cuDevicePrimaryCtxRetain(void **context, int device) {
    *context = (void *)(size_t)(device + 1);
    return 0;
}

int cuMemGetInfo_v2(size_t *free, size_t *total) {
    *free = (size_t)3 << 20;
    *total = (size_t)8 << 30;
    return 0;
}

static const int out_of_memory = 2;

int cuMemAlloc_v2(void) {
    return out_of_memory;
}

int cuMemAllocAsync(void) {
    return out_of_memory;
}
