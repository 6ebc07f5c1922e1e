// softmax(scale * q kT) v with an online softmax in float: the scores are never stored. Query head h uses key head
// h / (heads / groups). Products are plain float arithmetic, not tensor cores.
#include "real.cuh"

// Sizes and, in elements, the places of q [B, H, S, D], k [B, G, T, D] and v [B, G, T, E], whose last dimensions are
// dense. Strides are those of batch, head and position. The result [B, H, S, E] is row-major.
struct Problem {
    size_t heads, groups, queries, keys, width, value_width;
    size_t q_stride[3], k_stride[3], v_stride[3];
    // Query i sees the keys up to i + offset; `keys` when it sees all.
    size_t offset;
    float scale;
};

__device__ inline size_t visible(const Problem &p, size_t query) {
    const size_t end = query + p.offset + 1;
    return end < p.keys ? end : p.keys;
}

// Few queries, many keys: one block a query and head. Each warp takes every eighth key with a softmax of its own; the
// block joins them at the end. WIDTH is at least D and E, and a multiple of 32.
constexpr unsigned FEW_WARPS = 8;

template <typename T, int WIDTH>
__device__ void attend_few(const T *q, const T *k, const T *v, T *out, const Problem &p) {
    constexpr int PARTS = WIDTH / 32;
    __shared__ float sums[FEW_WARPS][WIDTH], maxima[FEW_WARPS], totals[FEW_WARPS];
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const size_t query = blockIdx.x % p.queries, head = blockIdx.x / p.queries % p.heads;
    const size_t batch = blockIdx.x / p.queries / p.heads, group = head / (p.heads / p.groups);
    q += batch * p.q_stride[0] + head * p.q_stride[1] + query * p.q_stride[2];
    k += batch * p.k_stride[0] + group * p.k_stride[1];
    v += batch * p.v_stride[0] + group * p.v_stride[1];

    float mine[PARTS], sum[PARTS], largest = -INFINITY, total = 0.0f;
    for (int part = 0; part < PARTS; part++) {
        const unsigned i = lane + 32 * part;
        mine[part] = i < p.width ? widen(q[i]) * p.scale : 0.0f;
        sum[part] = 0.0f;
    }
    const size_t end = visible(p, query);
    for (size_t key = warp; key < end; key += FEW_WARPS) {
        float product = 0.0f;
        for (int part = 0; part < PARTS; part++) {
            const unsigned i = lane + 32 * part;
            product += i < p.width ? mine[part] * widen(k[key * p.k_stride[2] + i]) : 0.0f;
        }
        const float score = across_warp<Sum>(product), larger = fmaxf(largest, score);
        const float correction = expf(largest - larger), weight = expf(score - larger);
        total = total * correction + weight;
        for (int part = 0; part < PARTS; part++) {
            const unsigned i = lane + 32 * part;
            const float value = i < p.value_width ? widen(v[key * p.v_stride[2] + i]) : 0.0f;
            sum[part] = sum[part] * correction + weight * value;
        }
        largest = larger;
    }

    for (int part = 0; part < PARTS; part++) {
        sums[warp][lane + 32 * part] = sum[part];
    }
    if (lane == 0) {
        maxima[warp] = largest;
        totals[warp] = total;
    }
    __syncthreads();
    largest = -INFINITY;
    for (unsigned w = 0; w < FEW_WARPS; w++) {
        largest = fmaxf(largest, maxima[w]);
    }
    out += blockIdx.x * p.value_width;
    for (unsigned i = threadIdx.x; i < p.value_width; i += blockDim.x) {
        float joined = 0.0f, weights = 0.0f;
        for (unsigned w = 0; w < FEW_WARPS; w++) {
            // Zero for a warp without a key, whose maximum is minus infinity.
            const float factor = expf(maxima[w] - largest);
            joined += factor * sums[w][i];
            weights += factor * totals[w];
        }
        out[i] = rounded<T>(joined / weights);
    }
}

// Many queries: one block a tile of queries and a head, so that a tile of keys is read once for all of them. Each of
// four warps has ROWS queries; a lane has a key's score, then a column of the result.
constexpr unsigned TILE_WARPS = 4, TILE_KEYS = 32;

// Rows `first`, `first` + 1, … of x to shared memory; zeros beyond the sizes.
template <typename T, int WIDTH>
__device__ void load_tile(float (*tile)[WIDTH + 1], const T *x, size_t first, size_t rows, size_t stride, size_t width) {
    for (unsigned at = threadIdx.x; at < TILE_KEYS * WIDTH; at += blockDim.x) {
        const unsigned row = at / WIDTH, i = at % WIDTH;
        tile[row][i] = first + row < rows && i < width ? widen(x[(first + row) * stride + i]) : 0.0f;
    }
}

template <typename T, int WIDTH, int ROWS>
__device__ void attend_tile(const T *q, const T *k, const T *v, T *out, const Problem &p) {
    constexpr int PARTS = WIDTH / 32, QUERIES = TILE_WARPS * ROWS;
    // One column more than needed, so that the lanes, each in a row of its own, use different banks.
    __shared__ float tile[TILE_KEYS][WIDTH + 1], queries[QUERIES][WIDTH];
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const size_t first = (size_t)blockIdx.x * QUERIES, head = blockIdx.y, batch = blockIdx.z;
    const size_t group = head / (p.heads / p.groups);
    q += batch * p.q_stride[0] + head * p.q_stride[1];
    k += batch * p.k_stride[0] + group * p.k_stride[1];
    v += batch * p.v_stride[0] + group * p.v_stride[1];
    for (unsigned at = threadIdx.x; at < QUERIES * WIDTH; at += blockDim.x) {
        const size_t query = first + at / WIDTH, i = at % WIDTH;
        queries[at / WIDTH][i] =
            query < p.queries && i < p.width ? widen(q[query * p.q_stride[2] + i]) * p.scale : 0.0f;
    }

    float sum[ROWS][PARTS], weight[ROWS], largest[ROWS], total[ROWS];
    for (int row = 0; row < ROWS; row++) {
        largest[row] = -INFINITY;
        total[row] = 0.0f;
        for (int part = 0; part < PARTS; part++) {
            sum[row][part] = 0.0f;
        }
    }
    const size_t end = visible(p, first + QUERIES - 1);
    for (size_t start = 0; start < end; start += TILE_KEYS) {
        __syncthreads();
        load_tile<T, WIDTH>(tile, k, start, p.keys, p.k_stride[2], p.width);
        __syncthreads();
        for (int row = 0; row < ROWS; row++) {
            weight[row] = 0.0f;
        }
        for (unsigned i = 0; i < p.width; i++) {
            const float element = tile[lane][i];
            for (int row = 0; row < ROWS; row++) {
                weight[row] += queries[warp * ROWS + row][i] * element;
            }
        }
        for (int row = 0; row < ROWS; row++) {
            const bool seen = start + lane < visible(p, first + warp * ROWS + row);
            const float score = seen ? weight[row] : -INFINITY;
            const float larger = fmaxf(largest[row], across_warp<Max>(score));
            // Until a query has seen a key there is no maximum to subtract.
            const float correction = largest[row] == -INFINITY ? 0.0f : expf(largest[row] - larger);
            weight[row] = seen ? expf(score - larger) : 0.0f;
            total[row] = total[row] * correction + across_warp<Sum>(weight[row]);
            largest[row] = larger;
            for (int part = 0; part < PARTS; part++) {
                sum[row][part] *= correction;
            }
        }
        __syncthreads();
        load_tile<T, WIDTH>(tile, v, start, p.keys, p.v_stride[2], p.value_width);
        __syncthreads();
        for (unsigned key = 0; key < TILE_KEYS; key++) {
            for (int row = 0; row < ROWS; row++) {
                const float share = __shfl_sync(0xffffffffu, weight[row], key);
                for (int part = 0; part < PARTS; part++) {
                    sum[row][part] += share * tile[key][lane + 32 * part];
                }
            }
        }
    }

    for (int row = 0; row < ROWS; row++) {
        const size_t query = first + warp * ROWS + row;
        for (int part = 0; part < PARTS; part++) {
            const unsigned i = lane + 32 * part;
            if (query < p.queries && i < p.value_width) {
                const size_t at = ((batch * p.heads + head) * p.queries + query) * p.value_width + i;
                out[at] = rounded<T>(sum[row][part] / total[row]);
            }
        }
    }
}

// Heads up to WIDTH wide. ROWS is what fits 48 KiB of shared memory beside the tile: 8, 4, 2. src/launch has the widths.
#define ENTRY(WIDTH, SUFFIX, T)                                                                                        \
    extern "C" __global__ void attend_few_##WIDTH##_##SUFFIX(const T *q, const T *k, const T *v, T *out, Problem p) {  \
        attend_few<T, WIDTH>(q, k, v, out, p);                                                                         \
    }                                                                                                                  \
    extern "C" __global__ void attend_tile_##WIDTH##_##SUFFIX(const T *q, const T *k, const T *v, T *out, Problem p) { \
        attend_tile<T, WIDTH, 512 / WIDTH>(q, k, v, out, p);                                                           \
    }
#define ENTRIES(SUFFIX, T)                                                                                             \
    ENTRY(64, SUFFIX, T)                                                                                               \
    ENTRY(128, SUFFIX, T)                                                                                              \
    ENTRY(256, SUFFIX, T)
FOR_EACH_TYPE(ENTRIES)
