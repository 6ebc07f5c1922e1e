// What the kernels share: element types, widened to float and rounded once, and sums over a warp and a block.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <math.h>
#include <stddef.h>

// Before a loop: unrolled whole, so that arrays which it indexes lie in registers.
#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#define UNROLL_BY_8 _Pragma("unroll 8")
#else
#define UNROLL
#define UNROLL_BY_8
#endif

__device__ inline float widen(float value) { return value; }
__device__ inline float widen(__half value) { return __half2float(value); }
__device__ inline float widen(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T> __device__ inline T rounded(float value);
template <> __device__ inline float rounded<float>(float value) { return value; }
template <> __device__ inline __half rounded<__half>(float value) { return __float2half_rn(value); }
template <> __device__ inline __nv_bfloat16 rounded<__nv_bfloat16>(float value) { return __float2bfloat16_rn(value); }

// Elements that are read or written at once, where they lie aligned so.
template <typename T, unsigned COUNT> struct alignas(COUNT * sizeof(T)) Vector {
    T at[COUNT];
};

// Whether rows of `width` elements from `first` on consist of whole vectors.
template <typename V, typename T> __device__ inline bool in_vectors(const T *first, size_t width) {
    return (size_t)first % sizeof(V) == 0 && width * sizeof(T) % sizeof(V) == 0;
}

struct Sum {
    static constexpr float none = 0.0f;
    static __device__ float of(float a, float b) { return a + b; }
};

struct Max {
    static constexpr float none = -INFINITY;
    static __device__ float of(float a, float b) { return fmaxf(a, b); }
};

// `Op` over the 32 threads of a warp, all of which must call; all get the result.
template <typename Op> __device__ inline float across_warp(float value) {
    for (int distance = 16; distance > 0; distance /= 2) {
        value = Op::of(value, __shfl_xor_sync(0xffffffffu, value, distance));
    }
    return value;
}

// `Op` over the threads of a block of whole warps, all of which must call; all get the result.
template <typename Op> __device__ inline float across_block(float value) {
    __shared__ float partial[32];
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    value = across_warp<Op>(value);
    // An earlier call may still be reading.
    __syncthreads();
    if (lane == 0) {
        partial[warp] = value;
    }
    __syncthreads();
    return across_warp<Op>(lane < blockDim.x / 32 ? partial[lane] : Op::none);
}

// Defines the entry points of kernel templates for each element type.
#define FOR_EACH_TYPE(ENTRY)                                                                                           \
    ENTRY(f32, float)                                                                                                  \
    ENTRY(f16, __half)                                                                                                 \
    ENTRY(bf16, __nv_bfloat16)
