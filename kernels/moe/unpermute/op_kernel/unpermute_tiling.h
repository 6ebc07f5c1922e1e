// See op_host/mod.rs, which computes it.
#pragma once
#include <stdint.h>

struct UnpermuteTiling {
    uint32_t tokens;
    uint32_t k;
    uint32_t width;
    uint32_t chunk;  // columns of a piece of work
    uint32_t chunks; // pieces of a row
    uint32_t batch;  // tokens whose places and weights are in local memory at a time
};
