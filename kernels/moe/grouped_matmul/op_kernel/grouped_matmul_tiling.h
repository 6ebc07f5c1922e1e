// What the host decides for grouped_matmul; op_host/mod.rs has the same struct.
#pragma once
#include <cstdint>

struct GroupedMatmulTiling {
    // x [rows, inner], weight [experts, weight_rows, inner], y [rows, columns].
    uint32_t rows;
    uint32_t inner;
    uint32_t columns;
    uint32_t experts;
    // A tile of the product: rows, columns of y, and elements of `inner` that lie in L1 and in L0 at a time.
    uint32_t tile_rows;
    uint32_t tile_columns;
    uint32_t depth_l1;
    uint32_t depth_l0;
    // Rows of y that a vector core takes at a time (with SwiGLU).
    uint32_t chunk_rows;
};
