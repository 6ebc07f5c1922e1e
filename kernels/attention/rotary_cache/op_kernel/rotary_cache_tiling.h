// See op_host/mod.rs, which computes it.
#pragma once
#include <stdint.h>

struct RotaryCacheTiling {
    uint32_t batch;
    uint32_t tokens;       // of a sequence
    uint32_t heads;        // of queries
    uint32_t kv_heads;     // of keys, and of values
    uint32_t width;        // of a head
    uint32_t capacity;     // positions in the cache
    uint32_t rows;         // heads of a piece of work
    uint32_t pieces;       // of a token
    uint32_t table_width;  // elements of a row of the tables, of which the first width / 2 are used
    uint32_t table_batch;  // rows of the tables between sequences; 0 where all share theirs
    uint32_t normed;       // heads of queries and keys are normed first
    uint32_t epsilon_bits;
    uint32_t mean_bits;    // 1 / width
};
