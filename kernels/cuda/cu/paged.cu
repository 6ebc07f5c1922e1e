// Attention of one query a sequence over keys and values in blocks of a pool: softmax(scale * q kT) v with an online softmax in float.
// Query head h uses key head h / (heads / groups). The keys of a sequence are split into parts, so that a long one has the whole GPU.
#include "real.cuh"

// q [B, H, D] and the result [B, H, E] are row-major; k [N, G, P, D] and v [N, G, P, E] are dense in their last dimension, and their
// strides are those of block, head and token, in elements. A row of the table [B, W] names the blocks of a sequence in their order.
struct Paged {
    size_t heads, groups, width, value_width;
    size_t blocks, block_size, table_width;
    size_t k_stride[3], v_stride[3];
    size_t parts;
    // Values are the first columns of the keys, and read once.
    int latent;
    float scale;
};

constexpr unsigned PAGED_WARPS = 8;
// No part has fewer keys, but for a sequence's last: src/plan.rs splits no further.
constexpr size_t LEAST_KEYS = 64;

// What sums relative to the maximum `largest` count for relative to `all`: nothing where there was no key.
__device__ inline float share(float largest, float all) { return largest == -INFINITY ? 0.0f : expf(largest - all); }

// One block some of the heads of a sequence that share a key head (at most HEADS: their queries and sums lie in registers) and a
// part of its keys: blockIdx.x is heads, head, and sequence, blockIdx.y the part. Each warp takes every eighth key with softmaxes of
// its own; the block joins them at the end. WIDTH is at least D and E, and a multiple of 32. Of several parts, each leaves in `parts`
// [B, H, parts, E + 2] the sums of a head, their maximum and the sum of their weights. A block that the pool has not is not read: the
// sequence's result is no number.
template <typename T, int WIDTH, unsigned HEADS>
__device__ void attend_paged(const T *q, const T *k, const T *v, const unsigned *table, const unsigned *lengths, T *out,
                             float *parts, const Paged &p) {
    constexpr int COLUMNS = WIDTH / 32;
    __shared__ float sums[PAGED_WARPS][WIDTH], maxima[PAGED_WARPS], totals[PAGED_WARPS];
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const size_t sharing = p.heads / p.groups, chunks = (sharing + HEADS - 1) / HEADS;
    const size_t chunk = blockIdx.x % chunks, group = blockIdx.x / chunks % p.groups;
    const size_t sequence = blockIdx.x / chunks / p.groups;
    const size_t first = sequence * p.heads + group * sharing + chunk * HEADS;
    const size_t left = sharing - chunk * HEADS, heads = left < HEADS ? left : HEADS;

    float query[HEADS][COLUMNS], sum[HEADS][COLUMNS], largest[HEADS], total[HEADS];
    for (unsigned h = 0; h < HEADS; h++) {
        largest[h] = -INFINITY;
        total[h] = 0.0f;
        for (int part = 0; part < COLUMNS; part++) {
            const unsigned i = lane + 32 * part;
            query[h][part] = h < heads && i < p.width ? widen(q[(first + h) * p.width + i]) * p.scale : 0.0f;
            sum[h][part] = 0.0f;
        }
    }

    const size_t room = p.table_width * p.block_size, told = lengths[sequence], length = told < room ? told : room;
    // Whole turns of the warps.
    size_t each = ((length + p.parts - 1) / p.parts + PAGED_WARPS - 1) / PAGED_WARPS * PAGED_WARPS;
    each = each < LEAST_KEYS ? LEAST_KEYS : each;
    const size_t from = blockIdx.y * each, end = from + each < length ? from + each : length;
    table += sequence * p.table_width;
    k += group * p.k_stride[1];
    v += group * p.v_stride[1];
    bool sound = true;
    for (size_t key = from + warp; key < end; key += PAGED_WARPS) {
        // 32 bits divide much faster, and a length has no more.
        const unsigned place = (unsigned)key / (unsigned)p.block_size, row = (unsigned)key % (unsigned)p.block_size;
        const size_t block = table[place];
        if (block >= p.blocks) {
            sound = false;
            break;
        }
        const T *of_key = k + block * p.k_stride[0] + row * p.k_stride[2];
        const T *of_value = v + block * p.v_stride[0] + row * p.v_stride[2];
        float element[COLUMNS], value[COLUMNS];
        for (int part = 0; part < COLUMNS; part++) {
            const unsigned i = lane + 32 * part;
            element[part] = i < p.width ? widen(of_key[i]) : 0.0f;
            value[part] = i >= p.value_width ? 0.0f : p.latent ? element[part] : widen(of_value[i]);
        }
        for (unsigned h = 0; h < HEADS; h++) {
            if (h >= heads) {
                continue;
            }
            float product = 0.0f;
            for (int part = 0; part < COLUMNS; part++) {
                product += query[h][part] * element[part];
            }
            const float score = across_warp<Sum>(product), larger = fmaxf(largest[h], score);
            const float correction = expf(largest[h] - larger), weight = expf(score - larger);
            total[h] = total[h] * correction + weight;
            for (int part = 0; part < COLUMNS; part++) {
                sum[h][part] = sum[h][part] * correction + weight * value[part];
            }
            largest[h] = larger;
        }
    }

    for (unsigned h = 0; h < heads; h++) {
        // The head before may still be read.
        __syncthreads();
        UNROLL
        for (unsigned mine = 0; mine < HEADS; mine++) {
            if (mine == h) {
                for (int part = 0; part < COLUMNS; part++) {
                    sums[warp][lane + 32 * part] = sum[mine][part];
                }
                // All lanes have the same.
                maxima[warp] = largest[mine];
                totals[warp] = sound ? total[mine] : NAN;
            }
        }
        __syncthreads();
        float all = -INFINITY, weights = 0.0f;
        for (unsigned w = 0; w < PAGED_WARPS; w++) {
            all = fmaxf(all, maxima[w]);
        }
        for (unsigned w = 0; w < PAGED_WARPS; w++) {
            weights += share(maxima[w], all) * totals[w];
        }
        float *to = parts + ((first + h) * p.parts + blockIdx.y) * (p.value_width + 2);
        for (unsigned i = threadIdx.x; i < p.value_width; i += blockDim.x) {
            float joined = 0.0f;
            for (unsigned w = 0; w < PAGED_WARPS; w++) {
                joined += share(maxima[w], all) * sums[w][i];
            }
            if (p.parts > 1) {
                to[i] = joined;
            } else {
                // A sequence without keys has zeros.
                out[(first + h) * p.value_width + i] = rounded<T>(weights == 0.0f ? 0.0f : joined / weights);
            }
        }
        if (p.parts > 1 && threadIdx.x == 0) {
            to[p.value_width] = all;
            to[p.value_width + 1] = weights;
        }
    }
}

// The parts of each head's result put together. One block a sequence and head.
template <typename T> __device__ void join_parts(const float *parts, T *out, size_t width, size_t count) {
    parts += blockIdx.x * count * (width + 2);
    out += blockIdx.x * width;
    float all = -INFINITY, weights = 0.0f;
    for (size_t part = 0; part < count; part++) {
        all = fmaxf(all, parts[part * (width + 2) + width]);
    }
    for (size_t part = 0; part < count; part++) {
        const float *marks = parts + part * (width + 2) + width;
        weights += share(marks[0], all) * marks[1];
    }
    for (size_t i = threadIdx.x; i < width; i += blockDim.x) {
        float joined = 0.0f;
        for (size_t part = 0; part < count; part++) {
            const float *of_part = parts + part * (width + 2);
            joined += share(of_part[width], all) * of_part[i];
        }
        out[i] = rounded<T>(weights == 0.0f ? 0.0f : joined / weights);
    }
}

// Keys and values up to WIDTH wide; src/plan.rs has the widths and heads.
#define ENTRY(WIDTH, HEADS, SUFFIX, T)                                                                                 \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                               \
        attend_paged_##WIDTH##_##SUFFIX(const T *q, const T *k, const T *v, const unsigned *table,                     \
                                        const unsigned *lengths, T *out, float *parts, Paged p) {                      \
        attend_paged<T, WIDTH, HEADS>(q, k, v, table, lengths, out, parts, p);                                         \
    }
#define ENTRIES(SUFFIX, T)                                                                                             \
    ENTRY(64, 8, SUFFIX, T)                                                                                            \
    ENTRY(128, 8, SUFFIX, T)                                                                                           \
    ENTRY(192, 4, SUFFIX, T)                                                                                           \
    ENTRY(256, 4, SUFFIX, T)                                                                                           \
    ENTRY(576, 2, SUFFIX, T)                                                                                           \
    extern "C" __global__ void join_parts_##SUFFIX(const float *parts, T *out, size_t width, size_t count) {           \
        join_parts<T>(parts, out, width, count);                                                                       \
    }
FOR_EACH_TYPE(ENTRIES)
