// What the host decides for flash_attention; op_host/mod.rs has the same struct.
#pragma once
#include <cstdint>

struct FlashAttentionTiling {
    // Elements between sequences, heads and rows of q [batch, heads, queries, width], k [batch, key_heads, keys, width],
    // v [batch, key_heads, keys, value_width] and the result [batch, heads, queries, value_width]. With ragged lengths the
    // sequences follow each other and the first of each is zero.
    uint32_t q_batch;
    uint32_t q_head;
    uint32_t k_batch;
    uint32_t k_head;
    uint32_t v_batch;
    uint32_t v_head;
    uint32_t y_batch;
    uint32_t y_head;
    uint32_t q_row;
    uint32_t k_row;
    uint32_t v_row;
    uint32_t y_row;
    uint32_t batch;
    uint32_t heads;
    uint32_t key_heads;
    uint32_t width;
    uint32_t value_width;
    // The greatest lengths of a sequence; all of them where `ragged` is 0.
    uint32_t queries;
    uint32_t keys;
    // Not 0: the lengths tensor [2, batch + 1] says where each sequence's queries begin, and its keys.
    uint32_t ragged;
    // Not 0: query i sees keys 0..=i + offset; with ragged lengths, offset is that of the sequence's ends.
    uint32_t causal;
    int32_t offset;
    uint32_t scale_bits;
};
