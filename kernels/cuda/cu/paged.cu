// Attention of one query a sequence over keys and values in blocks of a pool: softmax(scale * q kT) v with an online softmax in float.
// Query head h uses key head h / (heads / groups). The keys of a sequence are split into parts, so that a long one has the whole GPU.
#include "real.cuh"
#include "tensor.cuh"

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

constexpr unsigned MOST_WARPS = 8;

// What sums relative to the maximum `largest` count for relative to `all`: nothing where there was no key.
__device__ inline float share(float largest, float all) { return largest == -INFINITY ? 0.0f : expf(largest - all); }

// What a block of threads has: heads of a sequence that share a key head, `first` of all sequences' the first, and keys [from, end) of it.
// blockIdx.x is heads, key head, and sequence, blockIdx.y the part.
struct Task {
    size_t sequence, group, first, heads, from, end;
};

// For at most TOGETHER heads. Parts are multiples of `turn` keys, and none has fewer than LEAST but for a sequence's last: src/plan.rs splits
// no further. No more keys count than the table has room for.
template <unsigned TOGETHER, unsigned LEAST>
__device__ Task task_of(const unsigned *lengths, const Paged &p, unsigned turn) {
    const size_t sharing = p.heads / p.groups, chunks = (sharing + TOGETHER - 1) / TOGETHER;
    const size_t chunk = blockIdx.x % chunks, group = blockIdx.x / chunks % p.groups;
    const size_t sequence = blockIdx.x / chunks / p.groups, left = sharing - chunk * TOGETHER;
    const size_t room = p.table_width * p.block_size, told = lengths[sequence], length = told < room ? told : room;
    size_t each = ((length + p.parts - 1) / p.parts + turn - 1) / turn * turn;
    each = each < LEAST ? LEAST : each;
    const size_t from = blockIdx.y * each < length ? blockIdx.y * each : length;
    return {sequence, group, sequence * p.heads + group * sharing + chunk * TOGETHER, left < TOGETHER ? left : TOGETHER,
            from, from + each < length ? from + each : length};
}

// A task of at most HEADS heads, whose queries and sums lie in registers, in plain arithmetic. The block's warps take keys in turn, with
// softmaxes of their own; the block joins them at the end. WIDTH is at least D and E, and a multiple of 32. Of several parts, each leaves
// in `parts` [B, H, parts, E + 2] the sums of a head, their maximum and the sum of their weights. A block that the pool has not is not
// read: the sequence's result is no number.
template <typename T, int WIDTH, unsigned HEADS>
__device__ void attend_plain(const T *q, const T *k, const T *v, const unsigned *table, T *out, float *parts, const Task &task,
                             const Paged &p) {
    constexpr int COLUMNS = WIDTH / 32;
    __shared__ float sums[MOST_WARPS][WIDTH], maxima[MOST_WARPS], totals[MOST_WARPS];
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    const size_t first = task.first, heads = task.heads;

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

    table += task.sequence * p.table_width;
    k += task.group * p.k_stride[1];
    v += task.group * p.v_stride[1];
    bool sound = true;
    for (size_t key = task.from + warp; key < task.end; key += warps) {
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
        for (unsigned w = 0; w < warps; w++) {
            all = fmaxf(all, maxima[w]);
        }
        for (unsigned w = 0; w < warps; w++) {
            weights += share(maxima[w], all) * totals[w];
        }
        float *to = parts + ((first + h) * p.parts + blockIdx.y) * (p.value_width + 2);
        for (unsigned i = threadIdx.x; i < p.value_width; i += blockDim.x) {
            float joined = 0.0f;
            for (unsigned w = 0; w < warps; w++) {
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

// How the tensor cores' tiles are cut: KEYS keys at a time, of which STAGES - 1 tiles of keys or values are on their way. SHARES warps share the
// columns of a product with keys, and the others the keys.
template <unsigned KEYS_, unsigned SHARES_, unsigned STAGES_> struct Cut {
    static constexpr unsigned KEYS = KEYS_, SHARES = SHARES_, STAGES = STAGES_;
};

#if TENSOR_CORES
constexpr unsigned TILE_THREADS = 128, NO_BLOCK = 0xffffffffu;
constexpr size_t NOWHERE = (size_t)-1;

// Where the row of a key begins, and that of its value, in elements from the key head's first; NOWHERE where there is none.
struct Place {
    size_t at[2];
};

// Where a chunk of a row lies in a tile: the same one of eight rows that follow each other, which ldmatrix reads at once, in different banks.
template <unsigned CHUNKS> __device__ inline unsigned swizzled(unsigned row, unsigned chunk) {
    static_assert(CHUNKS % 8 == 0, "chunks of a row keep to eight");
    return row * CHUNKS + (chunk ^ row % 8);
}

template <typename T> __device__ inline unsigned two(T first, T second) {
    const Vector<T, 2> both = {{first, second}};
    unsigned bits;
    __builtin_memcpy(&bits, &both, sizeof bits);
    return bits;
}

// A tile of keys or values, whose rows are `width` elements from those in `places` on; zeros beyond.
template <unsigned CHUNKS, unsigned KEYS, typename T>
__device__ void load_rows(Vector<T, 8> *to, const T *x, const Place *places, bool values, size_t width, bool aligned) {
    static_assert(KEYS * CHUNKS % TILE_THREADS == 0, "all threads copy");
    UNROLL
    for (unsigned turn = 0; turn < KEYS * CHUNKS / TILE_THREADS; turn++) {
        const unsigned place = turn * TILE_THREADS + threadIdx.x, row = place / CHUNKS, chunk = place % CHUNKS;
        const size_t at = places[row].at[values];
        const bool there = at != NOWHERE && chunk * 8 < width;
        const T *from = x + (there ? at + chunk * 8 : 0);
        if (aligned) {
            start_copy(to + swizzled<CHUNKS>(row, chunk), from, there);
            continue;
        }
        Vector<T, 8> elements;
        for (unsigned i = 0; i < 8; i++) {
            elements.at[i] = there && chunk * 8 + i < width ? from[i] : rounded<T>(0.0f);
        }
        to[swizzled<CHUNKS>(row, chunk)] = elements;
    }
}

// Of the queries from `q` on, a head's `width` elements each, the parts that a warp multiplies from `column` on; zeros beyond.
template <typename T, unsigned INNER>
__device__ void load_queries(unsigned (&query)[INNER][4], const T *q, unsigned column, size_t heads, size_t width) {
    const unsigned lane = threadIdx.x % 32;
    UNROLL
    for (unsigned inner = 0; inner < INNER; inner++) {
        UNROLL
        for (unsigned i = 0; i < 4; i++) {
            const unsigned head = lane / 4 + i % 2 * 8, first = column + inner * 16 + i / 2 * 8 + lane % 4 * 2;
            auto element = [&](unsigned at) { return head < heads && at < width ? q[head * width + at] : rounded<T>(0.0f); };
            query[inner][i] = two(element(first), element(first + 1));
        }
    }
}

// The products of a warp's queries with OURS times eight keys of a tile, from row `key` and from `chunk` of the rows on.
template <unsigned CHUNKS, unsigned OURS, unsigned INNER, typename T>
__device__ void multiply_keys(Vector<float, 4> (*to)[32], const unsigned (&query)[INNER][4], const Vector<T, 8> *tile,
                              unsigned chunk, unsigned key) {
    static_assert(OURS == 2 || (OURS == 1 && INNER % 2 == 0), "two sums, so that one need not wait for the other");
    const unsigned lane = threadIdx.x % 32;
    // Of two parts of keys, or of every other part of columns.
    float products[2][4] = {};
    UNROLL
    for (unsigned step = 0; step < INNER * OURS / 2; step++) {
        const unsigned row = key + (OURS == 2 ? lane / 16 * 8 : 0) + lane % 8;
        const unsigned column = chunk + (OURS == 2 ? step * 2 + lane / 8 % 2 : step * 4 + lane / 8);
        unsigned b[4];
        load_matrices(b, tile + swizzled<CHUNKS>(row, column));
        multiply_add(products[0], query[OURS == 2 ? step : step * 2], b[0], b[1], T());
        multiply_add(products[1], query[OURS == 2 ? step : step * 2 + 1], b[2], b[3], T());
    }
    Vector<float, 4> ours[2];
    UNROLL
    for (unsigned i = 0; i < 4; i++) {
        ours[0].at[i] = OURS == 2 ? products[0][i] : products[0][i] + products[1][i];
        ours[1].at[i] = products[1][i];
    }
    UNROLL
    for (unsigned part = 0; part < OURS; part++) {
        to[part][lane] = ours[part];
    }
}

// This lane's scores of a tile's first `count` keys times `scale`, minus infinity of those behind, and of each of its rows the larger of them and
// of what is given.
template <unsigned SHARES, unsigned PARTS>
__device__ void take_scores(float (&to)[PARTS][4], float (&larger)[2], const Vector<float, 4> (&scores)[SHARES][PARTS][32],
                            float scale, unsigned count) {
    const unsigned lane = threadIdx.x % 32;
    UNROLL
    for (unsigned part = 0; part < PARTS; part++) {
        Vector<float, 4> score = scores[0][part][lane];
        UNROLL
        for (unsigned i = 0; i < 4; i++) {
            UNROLL
            for (unsigned other = 1; other < SHARES; other++) {
                score.at[i] += scores[other][part][lane].at[i];
            }
            const bool there = part * 8 + lane % 4 * 2 + i % 2 < count;
            to[part][i] = there ? score.at[i] * scale : -INFINITY;
            larger[i / 2] = fmaxf(larger[i / 2], to[part][i]);
        }
    }
}

// What a warp has in the end: a quarter of the columns of 16 heads, of which a lane has two rows.
template <typename T, unsigned COLUMNS>
__device__ void leave(T *out, float *parts, const float (&sums)[COLUMNS][4], const float (&largest)[2], const float (&total)[2],
                      const Task &task, const Paged &p) {
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    UNROLL
    for (unsigned half = 0; half < 2; half++) {
        const unsigned head = lane / 4 + half * 8;
        if (head >= task.heads) {
            continue;
        }
        float *to = parts + ((task.first + head) * p.parts + blockIdx.y) * (p.value_width + 2);
        T *result = out + (task.first + head) * p.value_width;
        UNROLL
        for (unsigned i = 0; i < 2 * COLUMNS; i++) {
            const unsigned at = (warp * COLUMNS + i / 2) * 8 + lane % 4 * 2 + i % 2;
            const float sum = sums[i / 2][2 * half + i % 2];
            if (at < p.value_width && p.parts > 1) {
                to[at] = sum;
            } else if (at < p.value_width) {
                // A sequence without keys has zeros.
                result[at] = rounded<T>(total[half] == 0.0f ? 0.0f : sum / total[half]);
            }
        }
        if (p.parts > 1 && warp == 0 && lane % 4 == 0) {
            to[p.value_width] = largest[half];
            to[p.value_width + 1] = total[half];
        }
    }
}

// A task of at most 16 heads, the rows of a tile, on tensor cores. Each of four warps makes a part of a tile's scores; all of them take
// the scores of all through shared memory, find the same weights, and have a quarter of the values' columns each, so that nothing is left
// to join. Weights are rounded to the values' type, and added up as they are rounded.
template <typename T, unsigned WIDTH, typename By>
__device__ void attend_tiles(const T *q, const T *k, const T *v, const unsigned *table, T *out, float *parts, const Task &task,
                             const Paged &p) {
    constexpr unsigned KEYS = By::KEYS, SHARES = By::SHARES, STAGES = By::STAGES, CHUNKS = WIDTH / 8;
    // Parts of 16 columns that a warp multiplies with keys; parts of eight keys that it does so for; parts of eight columns of values.
    constexpr unsigned INNER = WIDTH / SHARES / 16, OURS = KEYS / 8 * SHARES / 4, COLUMNS = WIDTH / 32;
    __shared__ Vector<T, 8> ring[STAGES * KEYS * CHUNKS];
    __shared__ Vector<float, 4> scores[SHARES][KEYS / 8][32];
    __shared__ Place places[2][KEYS];
    __shared__ int unsound;
    const unsigned thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const unsigned count = (unsigned)(task.end - task.from), tiles = (count + KEYS - 1) / KEYS;
    const bool latent = p.latent;
    table += task.sequence * p.table_width;
    k += task.group * p.k_stride[1];
    v += task.group * p.v_stride[1];
    bool aligned = in_vectors<Vector<T, 8>>(k, p.width) && (latent || in_vectors<Vector<T, 8>>(v, p.value_width));
    for (unsigned i = 0; i < 3; i += 2) {
        aligned = aligned && p.k_stride[i] % 8 == 0 && (latent || p.v_stride[i] % 8 == 0);
    }
    if (thread == 0) {
        unsound = 0;
    }

    // The entry of the table for this thread's key of a tile, which is on its way while others are computed with.
    auto look = [&](unsigned tile) {
        const unsigned key = tile * KEYS + thread;
        return thread < KEYS && key < count ? table[((unsigned)task.from + key) / (unsigned)p.block_size] : NO_BLOCK;
    };
    unsigned coming = 0, found = look(0);
    bool sound = true;
    // Waits for the next of keys, values, keys, … in the ring, which all threads are done with the one before of, and starts to copy the one that
    // takes that one's room. Where a tile's keys are its values, for the next tile.
    auto advance = [&]() {
        const unsigned tile = latent ? coming : coming / 2, key = tile * KEYS + thread;
        const bool values = !latent && coming % 2;
        if (!values && thread < KEYS) {
            const size_t row = ((unsigned)task.from + key) % (unsigned)p.block_size;
            const bool there = found < p.blocks;
            sound = sound && (there || key >= count);
            places[tile % 2][thread].at[0] = there ? found * p.k_stride[0] + row * p.k_stride[2] : NOWHERE;
            places[tile % 2][thread].at[1] = there ? found * p.v_stride[0] + row * p.v_stride[2] : NOWHERE;
        }
        wait_for_groups<STAGES - 2>();
        __syncthreads();
        if (tile < tiles) {
            Vector<T, 8> *to = ring + coming % STAGES * (KEYS * CHUNKS);
            load_rows<CHUNKS, KEYS>(to, values ? v : k, places[tile % 2], values, values ? p.value_width : p.width, aligned);
        }
        end_group();
        found = values ? found : look(tile + 1);
        coming++;
    };
    UNROLL
    for (unsigned stage = 0; stage + 1 < STAGES; stage++) {
        advance();
    }

    const unsigned of_columns = warp % SHARES, of_keys = warp / SHARES * OURS;
    unsigned query[INNER][4];
    load_queries(query, q + task.first * p.width, of_columns * INNER * 16, task.heads, p.width);
    // Powers of two are cheaper than those of e.
    constexpr float LOG2_E = 1.44269504f;
    const float scale = p.scale * LOG2_E;
    float sums[COLUMNS][4] = {}, largest[2] = {-INFINITY, -INFINITY}, total[2] = {};
    for (unsigned tile = 0; tile < tiles; tile++) {
        const Vector<T, 8> *of_tile = ring + (latent ? tile : 2 * tile) % STAGES * (KEYS * CHUNKS);
        advance();
        multiply_keys<CHUNKS, OURS>(scores[of_columns] + of_keys, query, of_tile, of_columns * INNER * 2, of_keys * 8);
        if (latent) {
            __syncthreads();
        } else {
            of_tile = ring + (2 * tile + 1) % STAGES * (KEYS * CHUNKS);
            advance();
        }

        float weight[KEYS / 8][4], larger[2] = {largest[0], largest[1]};
        take_scores(weight, larger, scores, scale, count - tile * KEYS);
        UNROLL
        for (unsigned half = 0; half < 2; half++) {
            larger[half] = fmaxf(larger[half], __shfl_xor_sync(0xffffffffu, larger[half], 1));
            larger[half] = fmaxf(larger[half], __shfl_xor_sync(0xffffffffu, larger[half], 2));
            const float correction = exp2f(largest[half] - larger[half]);
            largest[half] = larger[half];
            total[half] *= correction;
            UNROLL
            for (unsigned column = 0; column < COLUMNS; column++) {
                sums[column][2 * half] *= correction;
                sums[column][2 * half + 1] *= correction;
            }
        }
        UNROLL
        for (unsigned step = 0; step < KEYS / 16; step++) {
            // What the lanes have of the sums is what they are to have of a factor.
            unsigned a[4];
            UNROLL
            for (unsigned i = 0; i < 4; i++) {
                const float *pair = &weight[2 * step + i / 2][i % 2 * 2];
                const T left = rounded<T>(exp2f(pair[0] - largest[i % 2])), right = rounded<T>(exp2f(pair[1] - largest[i % 2]));
                total[i % 2] += widen(left) + widen(right);
                a[i] = two(left, right);
            }
            UNROLL
            for (unsigned column = 0; column < COLUMNS; column += 2) {
                unsigned b[4];
                load_matrices_turned(b, of_tile + swizzled<CHUNKS>(step * 16 + lane % 16, warp * COLUMNS + column + lane / 16));
                multiply_add(sums[column], a, b[0], b[1], T());
                multiply_add(sums[column + 1], a, b[2], b[3], T());
            }
        }
    }

    if (!sound) {
        unsound = 1;
    }
    __syncthreads();
    UNROLL
    for (unsigned half = 0; half < 2; half++) {
        total[half] += __shfl_xor_sync(0xffffffffu, total[half], 1);
        total[half] += __shfl_xor_sync(0xffffffffu, total[half], 2);
        total[half] = unsound ? NAN : total[half];
        largest[half] /= LOG2_E;
    }
    leave(out, parts, sums, largest, total, task, p);
}
#endif

// What src/plan.rs plans for the type: 16-bit elements as tensor cores take them, also where there are none.
template <typename T, unsigned WIDTH, unsigned HEADS, typename By>
__device__ void attend_paged(const T *q, const T *k, const T *v, const unsigned *table, const unsigned *lengths, T *out,
                             float *parts, const Paged &p) {
    if constexpr (sizeof(T) == 2) {
        Task task = task_of<16, 128>(lengths, p, By::KEYS);
#if TENSOR_CORES
        attend_tiles<T, WIDTH, By>(q, k, v, table, out, parts, task, p);
#else
        for (size_t left = task.heads; left > 0; left -= task.heads, task.first += task.heads) {
            task.heads = left < HEADS ? left : HEADS;
            attend_plain<T, WIDTH, HEADS>(q, k, v, table, out, parts, task, p);
        }
#endif
    } else {
        attend_plain<T, WIDTH, HEADS>(q, k, v, table, out, parts, task_of<HEADS, 64>(lengths, p, MOST_WARPS), p);
    }
}

// Threads of a block that puts parts together: by_row of src/plan.rs.
constexpr unsigned JOINING = 256;

// The parts of each head's result put together. One block a sequence and head; its threads share the parts out, and then the columns.
template <typename T> __device__ void join_parts(const float *parts, T *out, size_t width, size_t count) {
    // What each part counts for, of as many parts as there are threads.
    __shared__ float shares[JOINING];
    const size_t apart = width + 2;
    parts += blockIdx.x * count * apart;
    out += blockIdx.x * width;
    float largest = -INFINITY, weight = 0.0f;
    for (size_t part = threadIdx.x; part < count; part += JOINING) {
        largest = fmaxf(largest, parts[part * apart + width]);
    }
    const float all = across_block<Max>(largest);
    for (size_t part = threadIdx.x; part < count; part += JOINING) {
        const float *marks = parts + part * apart + width;
        weight += share(marks[0], all) * marks[1];
    }
    const float weights = across_block<Sum>(weight);
    for (size_t first = 0; first < width; first += JOINING) {
        const size_t i = first + threadIdx.x;
        float joined = 0.0f;
        for (size_t base = 0; base < count; base += JOINING) {
            const size_t mine = base + threadIdx.x, some = count - base < JOINING ? count - base : JOINING;
            // Those before may still be read.
            __syncthreads();
            shares[threadIdx.x] = mine < count ? share(parts[mine * apart + width], all) : 0.0f;
            __syncthreads();
            UNROLL_BY_8
            for (size_t part = 0; part < some; part++) {
                joined += shares[part] * (i < width ? parts[(base + part) * apart + i] : 0.0f);
            }
        }
        if (i < width) {
            out[i] = rounded<T>(weights == 0.0f ? 0.0f : joined / weights);
        }
    }
}

// Keys and values up to WIDTH wide; src/plan.rs has the widths, heads, and threads.
#define ENTRY(WIDTH, HEADS, KEYS, SHARES, STAGES, SUFFIX, T)                                                           \
    extern "C" __global__ void __launch_bounds__(sizeof(T) == 2 ? 128 : 256, sizeof(T) == 2 ? 3 : 2)                   \
        attend_paged_##WIDTH##_##SUFFIX(const T *q, const T *k, const T *v, const unsigned *table,                     \
                                        const unsigned *lengths, T *out, float *parts, Paged p) {                      \
        attend_paged<T, WIDTH, HEADS, Cut<KEYS, SHARES, STAGES>>(q, k, v, table, lengths, out, parts, p);              \
    }
// Tiles as fit 48 KiB of shared memory, the most that a kernel has unasked. 576 columns of queries are more than a warp's registers hold.
#define ENTRIES(SUFFIX, T)                                                                                             \
    ENTRY(64, 8, 64, 1, 4, SUFFIX, T)                                                                                  \
    ENTRY(128, 8, 32, 1, 5, SUFFIX, T)                                                                                 \
    ENTRY(192, 4, 32, 1, 3, SUFFIX, T)                                                                                 \
    ENTRY(256, 4, 32, 1, 2, SUFFIX, T)                                                                                 \
    ENTRY(576, 2, 16, 4, 2, SUFFIX, T)                                                                                 \
    extern "C" __global__ void join_parts_##SUFFIX(const float *parts, T *out, size_t width, size_t count) {           \
        join_parts<T>(parts, out, width, count);                                                                       \
    }
FOR_EACH_TYPE(ENTRIES)
