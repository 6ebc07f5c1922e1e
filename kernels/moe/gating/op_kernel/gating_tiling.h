// See op_host/mod.rs, which computes it.
#pragma once
#include <stdint.h>

struct GatingTiling {
    uint32_t tokens;
    uint32_t experts;
    uint32_t k;
    uint32_t groups;       // 1 without groups
    uint32_t kept_groups;
    uint32_t segment;      // slots of a group in local memory: its experts, and empty slots up to a multiple of 32
    uint32_t tile_rows;
    uint32_t has_bias;     // sigmoid only
    uint32_t renormalise;
    uint32_t factor_bits;
    uint32_t merge_pairs;  // (score, slot) pairs of the merges' work
};
