// See op_host/mod.rs, which computes it.
#pragma once
#include <stdint.h>

struct PermuteTiling {
    uint32_t tokens;
    uint32_t k;
    uint32_t experts;
    uint32_t width;
    uint32_t chunk;        // columns that are copied at a time
    uint32_t batch;        // tokens whose choices are in local memory at a time
    uint32_t counts;       // blocks whose counts are
};
