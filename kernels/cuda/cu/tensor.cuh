// Products of 16-bit tiles on tensor cores, and copies into shared memory that go on meanwhile: what GPUs of compute capability 8.0 and
// later have. The parts of a tile that lanes hold are those of the PTX ISA, section 9.7.14.5.
#pragma once
#include "real.cuh"

#if !defined(__CUDACC__)
#define TENSOR_CORES 1
#include "tensor_on_host.h"
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
#define TENSOR_CORES 1

__device__ inline unsigned in_shared(const void *at) { return (unsigned)__cvta_generic_to_shared(at); }

// Starts to copy 16 bytes, both aligned so; zeros where there is nothing `there`, and then nothing is read, whatever `from` is.
__device__ inline void start_copy(void *to, const void *from, bool there) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(in_shared(to)), "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}
// The copies that this thread has started since the last call are one group.
__device__ inline void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits for all groups of this thread but the last LEFT.
template <unsigned LEFT> __device__ inline void wait_for_groups() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// Four matrices of 8 rows of 16 bytes: lane i says where row i % 8 of matrix i / 8 lies. It gets, of each, the i % 4th two elements of
// row i / 4.
__device__ inline void load_matrices(unsigned (&to)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(in_shared(row))
                 : "memory");
}
// The same of each matrix turned: rows i % 4 * 2 and the one behind of column i / 4.
__device__ inline void load_matrices_turned(unsigned (&to)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(in_shared(row))
                 : "memory");
}

// sums += a b for a tile a of 16 by 16, b of 16 by 8. Lane i has elements 2 (i % 4) and the one behind of row i / 4 of each 8 by 8 part:
// of a, those of the upper rows, the lower, and of the right half the upper and the lower; of the columns of b, of the upper and
// the lower half; of the sums, of the upper and the lower half.
#define MULTIPLY_ADD(T, NAME)                                                                                          \
    __device__ inline void multiply_add(float (&sums)[4], const unsigned (&a)[4], unsigned upper, unsigned lower, T) { \
        asm("mma.sync.aligned.m16n8k16.row.col.f32." NAME "." NAME ".f32 "                                             \
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                                          \
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                                               \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(upper), "r"(lower));                                     \
    }
MULTIPLY_ADD(__half, "f16")
MULTIPLY_ADD(__nv_bfloat16, "bf16")
#undef MULTIPLY_ADD
#else
#define TENSOR_CORES 0
#endif
