// See op_host/mod.rs, which computes it.
#pragma once
#include <stdint.h>

struct AddRmsNormTiling {
    uint32_t rows;
    uint32_t width;
    uint32_t tile_rows;    // rows of a tile; 1 where rows are split
    uint32_t chunk;        // columns of a tile: the width, or less where a row does not fit local memory
    uint32_t out_buffers;  // tiles of results that wait to be written while the next is computed
    uint32_t epsilon_bits;
    uint32_t mean_bits;    // 1 / width
};
