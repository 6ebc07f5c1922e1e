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
/* Where the lanes of the current warp leave what others read; a new place each time, two in turn. */
float *exchange();
} // namespace host

#define threadIdx host::thread
#define blockIdx host::block
#define blockDim host::threads

inline void __syncthreads() { host::wait_for_block(); }

inline float __shfl_sync(unsigned, float value, int lane) {
    float *lanes = host::exchange();
    lanes[threadIdx.x % 32] = value;
    host::wait_for_warp();
    return lanes[lane];
}

inline float __shfl_xor_sync(unsigned mask, float value, int distance) {
    return __shfl_sync(mask, value, (threadIdx.x % 32) ^ distance);
}

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
