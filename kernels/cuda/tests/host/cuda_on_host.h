/* Enough of CUDA C++ to run the kernels of ../../cu on the host, a block at a time: each thread of a block is a fiber,
   and a fiber runs until it waits for the others. The arithmetic is the compiler's, in float, as on a GPU but for the
   last bits of expf and fused multiplications. What a GPU does at once is done in turn, so that a race does not show;
   a barrier that some threads miss does, as an error. */
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>

#define __global__
#define __device__
#define __launch_bounds__(...)
/* Blocks run one after the other. */
#define __shared__ static

struct Index {
    unsigned x, y, z;
};

namespace host {
extern Index thread, block, threads;
void wait_for_block();
void wait_for_warp();
/* What a lane leaves for others, and where those of the current warp do; a new place each time, two in turn. */
struct Left {
    uint32_t words[6];
};
Left *exchange();
/* Copies of 16 bytes, or of zeros, that are done when the group that they are in is waited for. */
void start_copy(void *to, const void *from, bool there);
void end_group();
void wait_for_groups(unsigned left);
/* Ends the program where a GPU would stop the kernel. */
void check_aligned(const void *at);
} // namespace host

#define threadIdx host::thread
#define blockIdx host::block
#define blockDim host::threads

inline void __syncthreads() { host::wait_for_block(); }

template <typename V> V __shfl_sync(unsigned, V value, int lane) {
    static_assert(sizeof value <= sizeof(host::Left), "a lane leaves no more");
    host::Left *lanes = host::exchange();
    __builtin_memcpy(&lanes[threadIdx.x % 32], &value, sizeof value);
    host::wait_for_warp();
    __builtin_memcpy(&value, &lanes[lane], sizeof value);
    return value;
}

template <typename V> V __shfl_xor_sync(unsigned mask, V value, int distance) {
    return __shfl_sync(mask, value, (threadIdx.x % 32) ^ distance);
}

template <typename V> V __shfl_up_sync(unsigned mask, V value, unsigned distance) {
    const unsigned lane = threadIdx.x % 32;
    return __shfl_sync(mask, value, lane < distance ? lane : lane - distance);
}

inline unsigned __ballot_sync(unsigned, int holds) {
    host::Left *lanes = host::exchange();
    lanes[threadIdx.x % 32].words[0] = holds != 0;
    host::wait_for_warp();
    unsigned all = 0;
    for (unsigned lane = 0; lane < 32; lane++) {
        all |= lanes[lane].words[0] << lane;
    }
    return all;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

struct __half {
    _Float16 value;
};
inline float __half2float(__half x) { return x.value; }
inline __half __float2half_rn(float x) { return {(_Float16)x}; }

struct __nv_bfloat16 {
    uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) {
    const uint32_t wide = (uint32_t)x.bits << 16;
    float value;
    __builtin_memcpy(&value, &wide, sizeof value);
    return value;
}
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
    uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    if (x != x) {
        return {0x7fff};
    }
    /* To nearest, ties to even. */
    return {(uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
