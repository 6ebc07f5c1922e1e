// Mixtures of experts: the choice of experts, the grouping of rows by expert and back, and products with each group's weight.
#include "real.cuh"

// Experts of a row at most: what a block keeps of each lies in shared memory.
constexpr size_t MOST_EXPERTS = 1024;

// How the router's logits become weights; see ops::moe::Gating.
struct Gate {
    size_t experts, chosen;
    // Experts can be chosen of the `kept` best of `groups` groups alone.
    size_t groups, kept;
    // A sigmoid an expert instead of a softmax over all.
    int sigmoid;
    // The weights of the chosen ones add up to one, before they are multiplied by `factor`.
    int renormalise;
    float factor;
};

// Whether `a` comes before `b` among the best: the larger first, of equals the one that stands first. A total order, so that
// every place is taken once whatever the numbers are.
__device__ inline bool before(float a, size_t i, float b, size_t j) { return a > b || (a == b && i < j); }

// How many of `count` numbers come before that of `i`.
__device__ inline size_t place(const float *numbers, size_t count, size_t i) {
    size_t others = 0;
    for (size_t j = 0; j < count; j++) {
        others += before(numbers[j], j, numbers[i], i);
    }
    return others;
}

// Chooses experts for a row of logits, the best first. `bias`, if there is one, takes part in the choice and not in the
// weights. A row with a logit that is no number has weights that are none. One block a row.
__device__ void route(const float *logits, const float *bias, float *weights, unsigned *chosen, const Gate &gate) {
    __shared__ float scores[MOST_EXPERTS], ranks[MOST_EXPERTS], of_groups[MOST_EXPERTS], best[MOST_EXPERTS];
    const size_t experts = gate.experts;
    logits += blockIdx.x * experts;
    weights += blockIdx.x * gate.chosen;
    chosen += blockIdx.x * gate.chosen;
    float largest = -INFINITY, sum = 0.0f;
    for (size_t i = threadIdx.x; i < experts; i += blockDim.x) {
        largest = fmaxf(largest, logits[i]);
    }
    largest = across_block<Max>(largest);
    for (size_t i = threadIdx.x; i < experts; i += blockDim.x) {
        scores[i] = gate.sigmoid ? 1.0f / (1.0f + expf(-logits[i])) : expf(logits[i] - largest);
        sum += scores[i];
    }
    sum = across_block<Sum>(sum);
    for (size_t i = threadIdx.x; i < experts; i += blockDim.x) {
        scores[i] = gate.sigmoid ? scores[i] : scores[i] / sum;
        const float rank = bias ? scores[i] + bias[i] : scores[i];
        // What is no number is the last to be chosen.
        ranks[i] = rank == rank ? rank : -INFINITY;
    }
    __syncthreads();
    if (gate.kept < gate.groups) {
        const size_t size = experts / gate.groups;
        for (size_t g = threadIdx.x; g < gate.groups; g += blockDim.x) {
            float first = -INFINITY, second = -INFINITY;
            for (size_t i = g * size; i < (g + 1) * size; i++) {
                second = fmaxf(second, fminf(first, ranks[i]));
                first = fmaxf(first, ranks[i]);
            }
            of_groups[g] = size > 1 ? first + second : first;
        }
        __syncthreads();
        for (size_t i = threadIdx.x; i < experts; i += blockDim.x) {
            if (place(of_groups, gate.groups, i / size) >= gate.kept) {
                ranks[i] = -INFINITY;
            }
        }
        __syncthreads();
    }
    for (size_t i = threadIdx.x; i < experts; i += blockDim.x) {
        const size_t at = place(ranks, experts, i);
        if (at < gate.chosen) {
            chosen[at] = (unsigned)i;
            best[at] = scores[i];
        }
    }
    __syncthreads();
    float total = 0.0f;
    for (size_t i = 0; i < gate.chosen; i++) {
        total += best[i];
    }
    // DeepSeek adds this lest a row of vanishing scores divides by zero.
    float scale = gate.renormalise ? gate.factor / (total + 1e-20f) : gate.factor;
    scale = sum == sum ? scale : NAN;
    for (size_t i = threadIdx.x; i < gate.chosen; i += blockDim.x) {
        weights[i] = best[i] * scale;
    }
}

// Where the copies of rows go that `chosen` sends to the expert of this block, in the order in which they stand, and where the
// expert's rows end. One block an expert, and one for what names no expert, which goes behind all others; each thread looks at a
// stretch of the list.
__device__ void group(const unsigned *chosen, unsigned *places, long long *ends, size_t count, size_t experts) {
    __shared__ unsigned own[1024], less[1024];
    const unsigned expert = blockIdx.x;
    const size_t stretch = (count + blockDim.x - 1) / blockDim.x;
    const size_t from = threadIdx.x * stretch < count ? threadIdx.x * stretch : count;
    const size_t to = from + stretch < count ? from + stretch : count;
    unsigned equal = 0, lower = 0;
    for (size_t i = from; i < to; i++) {
        const unsigned other = chosen[i] < experts ? chosen[i] : (unsigned)experts;
        equal += other == expert;
        lower += other < expert;
    }
    own[threadIdx.x] = equal;
    less[threadIdx.x] = lower;
    __syncthreads();
    size_t start = 0, total = 0;
    for (unsigned i = 0; i < blockDim.x; i++) {
        start += less[i] + (i < threadIdx.x ? own[i] : 0);
        total += less[i] + own[i];
    }
    for (size_t i = from; i < to; i++) {
        if (chosen[i] == expert || (expert == experts && chosen[i] > expert)) {
            places[i] = (unsigned)start++;
        }
    }
    if (threadIdx.x == 0 && expert < experts) {
        ends[expert] = (long long)total;
    }
}

// Each row of `x`, of which there are `copies`, goes to the places of its copies. One thread an element of the result.
template <typename T>
__device__ void permute(const T *x, const unsigned *places, T *y, size_t count, size_t width, size_t copies) {
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        const size_t copy = i / width, column = i % width;
        y[places[copy] * width + column] = x[copy / copies * width + column];
    }
}

// The weighted sum of the `copies` rows of each token, in their order, and its row of `common`, if there is one. A place beyond the
// rows makes the sum no number. One thread an element of the result.
template <typename T>
__device__ void unpermute(const T *y, const unsigned *places, const float *weights, const T *common, T *x, size_t count,
                          size_t width, size_t copies) {
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) {
        return;
    }
    const size_t token = i / width, column = i % width, rows = count / width * copies;
    float sum = 0.0f;
    for (size_t k = token * copies; k < (token + 1) * copies; k++) {
        sum += weights[k] * (places[k] < rows ? widen(y[places[k] * width + column]) : NAN);
    }
    x[i] = rounded<T>(common ? sum + widen(common[i]) : sum);
}

struct Grouped {
    size_t rows, inner, outputs, experts;
};

// Rows [first, end) of one expert, or of none: then `expert` is that behind the last, and what is made of the rows is no number.
struct Tile {
    size_t expert, first, end;
};

// The tile of this number, of HEIGHT rows at most: those of the first expert first, as many as its rows fill, and behind the last
// expert's the rows that nobody has. Empty if there are not so many. `ends` is not trusted to stay within the rows.
template <size_t HEIGHT> __device__ Tile tile_of(size_t tile, const long long *ends, const Grouped &size) {
    size_t expert = 0, first = 0, end = 0;
    for (;; expert++) {
        const long long told = expert < size.experts ? ends[expert] : (long long)size.rows;
        end = told > (long long)size.rows ? size.rows : told > (long long)first ? (size_t)told : first;
        const size_t tiles = (end - first + HEIGHT - 1) / HEIGHT;
        if (tile < tiles || expert == size.experts) {
            break;
        }
        tile -= tiles;
        first = end;
    }
    first += tile * HEIGHT;
    return {expert, first, first + HEIGHT < end ? first + HEIGHT : end};
}

// Each group of rows of `x` times its expert's matrix, where experts have few rows: blockIdx.x is a tile of FEW_ROWS of them, blockIdx.y
// one of outputs. Each of eight warps has FEW_OUTPUTS outputs and goes along the inner width, so that a matrix is read once.
constexpr unsigned FEW_ROWS = 4, FEW_OUTPUTS = 4, FEW_WARPS_OF_ROWS = 8;

template <typename T>
__device__ void grouped_few(const T *x, const T *weight, const long long *ends, T *y, const Grouped &size) {
    const Tile tile = tile_of<FEW_ROWS>(blockIdx.x, ends, size);
    const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const size_t output = (blockIdx.y * FEW_WARPS_OF_ROWS + warp) * FEW_OUTPUTS;
    const bool nobodys = tile.expert == size.experts;
    weight += tile.expert * size.outputs * size.inner;
    float sums[FEW_OUTPUTS][FEW_ROWS] = {};
    for (size_t i = lane; i < size.inner && !nobodys; i += 32) {
        float of_x[FEW_ROWS];
        for (unsigned row = 0; row < FEW_ROWS; row++) {
            of_x[row] = tile.first + row < tile.end ? widen(x[(tile.first + row) * size.inner + i]) : 0.0f;
        }
        for (unsigned o = 0; o < FEW_OUTPUTS; o++) {
            const float factor = output + o < size.outputs ? widen(weight[(output + o) * size.inner + i]) : 0.0f;
            for (unsigned row = 0; row < FEW_ROWS; row++) {
                sums[o][row] += factor * of_x[row];
            }
        }
    }
    for (unsigned o = 0; o < FEW_OUTPUTS; o++) {
        for (unsigned row = 0; row < FEW_ROWS; row++) {
            const float sum = nobodys ? NAN : across_warp<Sum>(sums[o][row]);
            if (lane == 0 && tile.first + row < tile.end && output + o < size.outputs) {
                y[(tile.first + row) * size.outputs + output + o] = rounded<T>(sum);
            }
        }
    }
}

// The same where experts have many rows: tiles of MANY_ROWS by MANY_OUTPUTS in shared memory, in steps of the inner width. 256 threads,
// each with four rows next to each other and four outputs that are 16 apart.
constexpr size_t MANY_ROWS = 64, MANY_OUTPUTS = 64, STEP = 32;

// Rows `first`, … up to `end` and columns `start`, … of a matrix `width` wide, one column below the other; zeros beyond.
template <typename T>
__device__ void load_columns(float (*to)[MANY_ROWS + 1], const T *from, size_t first, size_t end, size_t start, size_t width) {
    for (size_t i = threadIdx.x; i < MANY_ROWS * STEP; i += blockDim.x) {
        const size_t row = first + i / STEP, column = start + i % STEP;
        to[i % STEP][i / STEP] = row < end && column < width ? widen(from[row * width + column]) : 0.0f;
    }
}

template <typename T>
__device__ void grouped_many(const T *x, const T *weight, const long long *ends, T *y, const Grouped &size) {
    static_assert(MANY_ROWS == MANY_OUTPUTS, "one loader for both");
    __shared__ float of_x[STEP][MANY_ROWS + 1], of_weight[STEP][MANY_OUTPUTS + 1];
    const Tile tile = tile_of<MANY_ROWS>(blockIdx.x, ends, size);
    if (tile.first >= tile.end) {
        return;
    }
    const size_t output = blockIdx.y * MANY_OUTPUTS;
    const unsigned row = threadIdx.x / 16 * 4, column = threadIdx.x % 16;
    const bool nobodys = tile.expert == size.experts;
    weight += tile.expert * size.outputs * size.inner;
    float sums[4][4] = {};
    for (size_t start = 0; start < size.inner && !nobodys; start += STEP) {
        load_columns(of_x, x, tile.first, tile.end, start, size.inner);
        load_columns(of_weight, weight, output, size.outputs, start, size.inner);
        __syncthreads();
        for (size_t inner = 0; inner < STEP; inner++) {
            for (unsigned o = 0; o < 4; o++) {
                const float factor = of_weight[inner][column + 16 * o];
                for (unsigned i = 0; i < 4; i++) {
                    sums[i][o] += factor * of_x[inner][row + i];
                }
            }
        }
        __syncthreads();
    }
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned o = 0; o < 4; o++) {
            const size_t at = output + column + 16 * o;
            if (tile.first + row + i < tile.end && at < size.outputs) {
                y[(tile.first + row + i) * size.outputs + at] = rounded<T>(nobodys ? NAN : sums[i][o]);
            }
        }
    }
}

extern "C" __global__ void route_f32(const float *logits, const float *bias, float *weights, unsigned *chosen, Gate gate) {
    route(logits, bias, weights, chosen, gate);
}
extern "C" __global__ void group_u32(const unsigned *chosen, unsigned *places, long long *ends, size_t count,
                                     size_t experts) {
    group(chosen, places, ends, count, experts);
}

#define ENTRIES(SUFFIX, T)                                                                                             \
    extern "C" __global__ void permute_##SUFFIX(const T *x, const unsigned *places, T *y, size_t count, size_t width,  \
                                                size_t copies) {                                                       \
        permute<T>(x, places, y, count, width, copies);                                                                \
    }                                                                                                                  \
    extern "C" __global__ void unpermute_##SUFFIX(const T *y, const unsigned *places, const float *weights,            \
                                                  const T *common, T *x, size_t count, size_t width, size_t copies) {  \
        unpermute<T>(y, places, weights, common, x, count, width, copies);                                             \
    }                                                                                                                  \
    extern "C" __global__ void grouped_few_##SUFFIX(const T *x, const T *weight, const long long *ends, T *y,          \
                                                    Grouped size) {                                                    \
        grouped_few<T>(x, weight, ends, y, size);                                                                      \
    }                                                                                                                  \
    extern "C" __global__ void grouped_many_##SUFFIX(const T *x, const T *weight, const long long *ends, T *y,         \
                                                     Grouped size) {                                                   \
        grouped_many<T>(x, weight, ends, y, size);                                                                     \
    }
FOR_EACH_TYPE(ENTRIES)
