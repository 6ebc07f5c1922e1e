/* A driver whose GPU is this process and computes: its kernels are those of ../../cu as the host's compiler makes them, its memory
   is the host's, and what it is told to do it does at once. It shows what this workspace launches, with which arguments, on which
   memory, and what it reads back; nothing of a GPU. It leaves a line for each launch and each copy to the host in the file that STUB_GPU_LOG
   names. candle's own kernels it does not have: a launch of one fails as not found. One file is the driver and the toolkit's libraries alike. */
#include "../host/host.cpp"
#include <string.h>
#include <map>
#include <string>
#include <tuple>
#include <utility>

namespace {
enum { SUCCESS = 0, INVALID_VALUE = 1, NOT_FOUND = 500, LAUNCH_FAILED = 719 };

/* Calls a kernel with the arguments that `places` point to, as a launch has them. */
template <typename... A, size_t... I> void unpack(void (*kernel)(A...), void **places, std::index_sequence<I...>) {
    kernel(*(A *)places[I]...);
}
template <typename... A> void unpack(void (*kernel)(A...), void **places) {
    unpack(kernel, places, std::index_sequence_for<A...>());
}

struct Kernel {
    const char *name;
    void (*run)(void **places);
};

#define KERNEL(name) {#name, {#name, [](void **places) { unpack(name, places); }}},
#define ATTENTION(width, suffix)                                                                                       \
    KERNEL(attend_few_##width##_##suffix)                                                                              \
    KERNEL(attend_tile_##width##_##suffix)
#define OF_TYPE(suffix, type)                                                                                          \
    KERNEL(softmax_##suffix)                                                                                           \
    KERNEL(swiglu_##suffix)                                                                                            \
    KERNEL(add_rms_norm_##suffix)                                                                                      \
    KERNEL(rotary_##suffix)                                                                                            \
    ATTENTION(64, suffix)                                                                                              \
    ATTENTION(128, suffix)                                                                                             \
    ATTENTION(256, suffix)                                                                                             \
    KERNEL(attend_paged_64_##suffix)                                                                                   \
    KERNEL(attend_paged_128_##suffix)                                                                                  \
    KERNEL(attend_paged_192_##suffix)                                                                                  \
    KERNEL(attend_paged_256_##suffix)                                                                                  \
    KERNEL(attend_paged_576_##suffix)                                                                                  \
    KERNEL(join_parts_##suffix)                                                                                        \
    KERNEL(permute_##suffix)                                                                                           \
    KERNEL(unpermute_##suffix)                                                                                         \
    KERNEL(grouped_few_##suffix)                                                                                       \
    KERNEL(grouped_many_64_##suffix)                                                                                   \
    KERNEL(grouped_many_128_##suffix)

std::map<std::string, Kernel> kernels = {FOR_EACH_TYPE(OF_TYPE) KERNEL(route_f32) KERNEL(group_u32)};

void note(const std::string &what) {
    static FILE *log = fopen(getenv("STUB_GPU_LOG"), "a");
    fprintf(log, "%s\n", what.c_str());
    fflush(log);
}

/* Memory between walls, which nobody may write to. */
constexpr size_t WALL = 4096;
constexpr unsigned char OF_WALL = 0xa5, FRESH = 0xff;
std::map<char *, size_t> memory;

void check_walls(const char *after) {
    for (auto [at, bytes] : memory) {
        for (size_t i = 0; i < WALL; i++) {
            if ((unsigned char)at[i - WALL] != OF_WALL || (unsigned char)at[bytes + i] != OF_WALL) {
                fprintf(stderr, "stub: %s wrote outside of %zu bytes\n", after, bytes);
                abort();
            }
        }
    }
}
} // namespace

extern "C" {
int cuMemAlloc_v2(char **made, size_t bytes) {
    if (bytes == 0) {
        return INVALID_VALUE;
    }
    char *start = (char *)aligned_alloc(256, (bytes + 2 * WALL + 255) / 256 * 256);
    *made = start + WALL;
    memset(start, OF_WALL, bytes + 2 * WALL);
    memset(*made, FRESH, bytes);
    memory[*made] = bytes;
    return SUCCESS;
}
int cuMemFree_v2(char *at) {
    if (!memory.erase(at)) {
        fprintf(stderr, "stub: memory that is none is freed\n");
        abort();
    }
    free(at - WALL);
    return SUCCESS;
}
int cuMemcpyHtoDAsync_v2(char *to, const void *from, size_t bytes, void *) { return memcpy(to, from, bytes), SUCCESS; }
int cuMemcpyDtoDAsync_v2(char *to, const char *from, size_t bytes, void *) { return memmove(to, from, bytes), SUCCESS; }
int cuMemcpyDtoHAsync_v2(void *to, const char *from, size_t bytes, void *) {
    note("read");
    return memcpy(to, from, bytes), SUCCESS;
}
int cuMemsetD8Async(char *to, unsigned char value, size_t bytes, void *) { return memset(to, value, bytes), SUCCESS; }

int cuModuleLoadData(void **made, const void *) { return *made = &kernels, SUCCESS; }
int cuModuleUnload(void *) { return SUCCESS; }
int cuModuleGetFunction(Kernel **found, void *, const char *name) {
    auto kernel = kernels.find(name);
    if (kernel == kernels.end()) {
        return NOT_FOUND;
    }
    return *found = &kernel->second, SUCCESS;
}
int cuLaunchKernel(Kernel *kernel, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned y_threads,
                   unsigned z_threads, unsigned, void *, void **places, void **) {
    if (!x || !y || !z || y > 65535 || z > 65535 || !threads || threads > 1024 || y_threads != 1 || z_threads != 1) {
        return INVALID_VALUE;
    }
    const unsigned grid[3] = {x, y, z};
    std::pair<Kernel *, void **> with = {kernel, places};
    auto each = [](void *with) {
        auto [kernel, places] = *(std::pair<Kernel *, void **> *)with;
        kernel->run(places);
    };
    const int failed = launch(grid, threads, each, &with);
    note(kernel->name);
    check_walls(kernel->name);
    return failed ? LAUNCH_FAILED : SUCCESS;
}

int cuInit(unsigned) { return SUCCESS; }
int cuDriverGetVersion(int *version) { return *version = 13000, SUCCESS; }
int cuDeviceGetCount(int *count) { return *count = 1, SUCCESS; }
int cuDeviceGet(int *device, int index) { return *device = index, SUCCESS; }
int cuDeviceGetName(char *name, int length, int) { return snprintf(name, length, "this host"), SUCCESS; }
int cuDeviceTotalMem_v2(size_t *bytes, int) { return *bytes = (size_t)8 << 30, SUCCESS; }
int cuDeviceGetAttribute(int *value, int which, int) {
    const int multiprocessors = 16;
    return *value = which == multiprocessors ? 4 : 0, SUCCESS;
}
int cuDevicePrimaryCtxRetain(void **context, int) { return *context = &memory, SUCCESS; }
int cuCtxGetCurrent(void **context) { return *context = &memory, SUCCESS; }
int cuStreamIsCapturing(void *, int *captures) { return *captures = 0, SUCCESS; }
int cuEventCreate(void **made, unsigned) { return *made = &memory, SUCCESS; }
int cuStreamCreate(void **made, unsigned) { return *made = &memory, SUCCESS; }

#include "succeeds.h"
SUCCEEDS(cuCtxSynchronize)
SUCCEEDS(cuEventSynchronize)
SUCCEEDS(cuStreamSynchronize)
}
