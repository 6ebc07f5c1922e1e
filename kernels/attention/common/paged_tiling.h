// What the host decides for paged_decode and mla_decode; common/paged.rs has the same struct.
#pragma once
#include <cstdint>

struct PagedTiling {
    // Elements between sequences and heads of q [batch, heads, width] and of the result [batch, heads, value_width]; between
    // blocks, heads and rows of the pools [blocks, key_heads, block_size, ..].
    uint32_t q_batch;
    uint32_t q_head;
    uint32_t y_batch;
    uint32_t y_head;
    uint32_t k_block;
    uint32_t k_head;
    uint32_t k_row;
    uint32_t v_block;
    uint32_t v_head;
    uint32_t v_row;
    uint32_t batch;
    uint32_t heads;
    uint32_t key_heads;
    uint32_t width;
    uint32_t value_width;
    uint32_t scale_bits;
    uint32_t blocks;
    uint32_t block_size;
    // The table has this many entries a sequence.
    uint32_t table_width;
    // Keys of a part of a sequence, and the most parts that one has.
    uint32_t part_keys;
    uint32_t parts;
    // Bytes of workspace in front of the parts' results.
    uint32_t slot_bytes;
};
