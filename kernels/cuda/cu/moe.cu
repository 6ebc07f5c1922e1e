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
// weights. One block a row.
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
    const float scale = gate.renormalise ? gate.factor / (total + 1e-20f) : gate.factor;
    for (size_t i = threadIdx.x; i < gate.chosen; i += blockDim.x) {
        weights[i] = best[i] * scale;
    }
}

// Where the copies of rows go that `chosen` sends to the expert of this block, in the order in which they stand, and where the
// expert's rows end. One block an expert; each thread looks at a stretch of the list.
__device__ void group(const unsigned *chosen, unsigned *places, long long *ends, size_t count) {
    __shared__ unsigned own[1024], less[1024];
    const unsigned expert = blockIdx.x;
    const size_t stretch = (count + blockDim.x - 1) / blockDim.x;
    const size_t from = threadIdx.x * stretch < count ? threadIdx.x * stretch : count;
    const size_t to = from + stretch < count ? from + stretch : count;
    unsigned equal = 0, lower = 0;
    for (size_t i = from; i < to; i++) {
        equal += chosen[i] == expert;
        lower += chosen[i] < expert;
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
        if (chosen[i] == expert) {
            places[i] = (unsigned)start++;
        }
    }
    if (threadIdx.x == 0) {
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

// The weighted sum of the `copies` rows of each token, in their order. One thread an element of the result.
template <typename T>
__device__ void unpermute(const T *y, const unsigned *places, const float *weights, T *x, size_t count, size_t width,
                          size_t copies) {
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) {
        return;
    }
    const size_t token = i / width, column = i % width;
    float sum = 0.0f;
    for (size_t k = 0; k < copies; k++) {
        sum += weights[token * copies + k] * widen(y[places[token * copies + k] * width + column]);
    }
    x[i] = rounded<T>(sum);
}

// A tile of the grouped product: rows of one expert by outputs, in steps of the inner width.
constexpr size_t TILE_ROWS = 16, TILE_OUTPUTS = 64, TILE_INNER = 32;

struct Grouped {
    size_t rows, inner, outputs, experts;
};

// Each group of rows of `x` times its expert's matrix. blockIdx.x is a tile of outputs, blockIdx.y one of rows: of the first
// expert first, as many as its rows fill; what is left over does nothing. `ends` is not trusted to stay within the rows.
// 256 threads, each with four rows of one output.
template <typename T>
__device__ void grouped_linear(const T *x, const T *weight, const long long *ends, T *y, const Grouped &size) {
    __shared__ float of_x[TILE_INNER][TILE_ROWS], of_weight[TILE_INNER][TILE_OUTPUTS + 1];
    size_t expert = 0, first = 0, end = 0, tile = blockIdx.y;
    for (; expert < size.experts; expert++) {
        const long long told = ends[expert];
        end = told > (long long)size.rows ? size.rows : told > (long long)first ? (size_t)told : first;
        const size_t tiles = (end - first + TILE_ROWS - 1) / TILE_ROWS;
        if (tile < tiles) {
            break;
        }
        tile -= tiles;
        first = end;
    }
    if (expert == size.experts) {
        return;
    }
    first += tile * TILE_ROWS;
    const size_t output = blockIdx.x * TILE_OUTPUTS, lane = threadIdx.x % TILE_OUTPUTS, part = threadIdx.x / TILE_OUTPUTS;
    weight += expert * size.outputs * size.inner;
    float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (size_t step = 0; step < size.inner; step += TILE_INNER) {
        for (size_t i = threadIdx.x; i < TILE_ROWS * TILE_INNER; i += blockDim.x) {
            const size_t row = first + i / TILE_INNER, column = step + i % TILE_INNER;
            const bool inside = row < end && column < size.inner;
            of_x[i % TILE_INNER][i / TILE_INNER] = inside ? widen(x[row * size.inner + column]) : 0.0f;
        }
        for (size_t i = threadIdx.x; i < TILE_OUTPUTS * TILE_INNER; i += blockDim.x) {
            const size_t row = output + i / TILE_INNER, column = step + i % TILE_INNER;
            const bool inside = row < size.outputs && column < size.inner;
            of_weight[i % TILE_INNER][i / TILE_INNER] = inside ? widen(weight[row * size.inner + column]) : 0.0f;
        }
        __syncthreads();
        for (size_t inner = 0; inner < TILE_INNER; inner++) {
            const float factor = of_weight[inner][lane];
            for (size_t i = 0; i < 4; i++) {
                sums[i] += factor * of_x[inner][part * 4 + i];
            }
        }
        __syncthreads();
    }
    for (size_t i = 0; i < 4; i++) {
        const size_t row = first + part * 4 + i;
        if (row < end && output + lane < size.outputs) {
            y[row * size.outputs + output + lane] = rounded<T>(sums[i]);
        }
    }
}

extern "C" __global__ void route_f32(const float *logits, const float *bias, float *weights, unsigned *chosen, Gate gate) {
    route(logits, bias, weights, chosen, gate);
}
extern "C" __global__ void group_u32(const unsigned *chosen, unsigned *places, long long *ends, size_t count) {
    group(chosen, places, ends, count);
}

#define ENTRIES(SUFFIX, T)                                                                                             \
    extern "C" __global__ void permute_##SUFFIX(const T *x, const unsigned *places, T *y, size_t count, size_t width,   \
                                                size_t copies) {                                                       \
        permute<T>(x, places, y, count, width, copies);                                                                 \
    }                                                                                                                  \
    extern "C" __global__ void unpermute_##SUFFIX(const T *y, const unsigned *places, const float *weights, T *x,      \
                                                  size_t count, size_t width, size_t copies) {                         \
        unpermute<T>(y, places, weights, x, count, width, copies);                                                       \
    }                                                                                                                  \
    extern "C" __global__ void grouped_linear_##SUFFIX(const T *x, const T *weight, const long long *ends, T *y,       \
                                                       Grouped size) {                                                 \
        grouped_linear<T>(x, weight, ends, y, size);                                                                   \
    }
FOR_EACH_TYPE(ENTRIES)
