/* What cu/tensor.cuh has in PTX, on the host. A copy arrives when it is waited for and no sooner; lanes hold the parts of a tile that
   PTX says they hold, so that a wrong index shows as a wrong number. */
#pragma once
#include "cuda_on_host.h"

using host::end_group;
using host::start_copy;
template <unsigned LEFT> void wait_for_groups() { host::wait_for_groups(LEFT); }

inline void load_matrices(unsigned (&to)[4], const void *row) {
    host::check_aligned(row);
    const unsigned lane = threadIdx.x % 32;
    for (unsigned matrix = 0; matrix < 4; matrix++) {
        const void *of_lane = __shfl_sync(~0u, row, matrix * 8 + lane / 4);
        __builtin_memcpy(&to[matrix], (const unsigned *)of_lane + lane % 4, sizeof to[matrix]);
    }
}

inline void load_matrices_turned(unsigned (&to)[4], const void *row) {
    host::check_aligned(row);
    const unsigned lane = threadIdx.x % 32;
    for (unsigned matrix = 0; matrix < 4; matrix++) {
        to[matrix] = 0;
        for (unsigned which = 0; which < 2; which++) {
            const void *of_lane = __shfl_sync(~0u, row, matrix * 8 + lane % 4 * 2 + which);
            to[matrix] |= (unsigned)((const uint16_t *)of_lane)[lane / 4] << 16 * which;
        }
    }
}

/* One of the two elements in a register. */
template <typename T> float element(unsigned two, unsigned which, T) {
    const uint16_t bits = (uint16_t)(two >> 16 * which);
    T value;
    __builtin_memcpy(&value, &bits, sizeof value);
    return widen(value);
}

template <typename T>
void multiply_add(float (&sums)[4], const unsigned (&a)[4], unsigned upper, unsigned lower, T type) {
    host::Left *lanes = host::exchange();
    const unsigned lane = threadIdx.x % 32;
    const host::Left mine = {{a[0], a[1], a[2], a[3], upper, lower}};
    lanes[lane] = mine;
    host::wait_for_warp();
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row = lane / 4, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 16; k++) {
            const unsigned of_a = lanes[row * 4 + k % 8 / 2].words[i / 2 + k / 8 * 2];
            const unsigned of_b = lanes[column * 4 + k % 8 / 2].words[4 + k / 8];
            sums[i] += element(of_a, k % 2, type) * element(of_b, k % 2, type);
        }
    }
}
