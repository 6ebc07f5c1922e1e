// Mixtures of experts: the choice of experts, and the grouping of rows by expert and back.
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
// expert's rows end. One block an expert, and one for what names no expert, which goes behind all others; each warp looks at a
// stretch of the list, 32 copies at a time.
__device__ void group(const unsigned *chosen, unsigned *places, long long *ends, size_t count, size_t experts) {
    __shared__ unsigned own[32], less[32];
    const unsigned expert = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const size_t stretch = (count + blockDim.x - 1) / blockDim.x * 32;
    const size_t from = warp * stretch, to = from + stretch < count ? from + stretch : count;
    // Behind the end stands what is behind all.
    auto expert_of = [&](size_t copy) {
        return copy >= to ? (unsigned)-1 : chosen[copy] < experts ? chosen[copy] : (unsigned)experts;
    };
    unsigned equal = 0, lower = 0;
    for (size_t first = from; first < to; first += 32) {
        const unsigned other = expert_of(first + lane);
        equal += __popc(__ballot_sync(0xffffffffu, other == expert));
        lower += __popc(__ballot_sync(0xffffffffu, other < expert));
    }
    if (lane == 0) {
        own[warp] = equal;
        less[warp] = lower;
    }
    __syncthreads();
    unsigned start = 0, total = 0;
    for (unsigned i = 0; i < blockDim.x / 32; i++) {
        start += less[i] + (i < warp ? own[i] : 0);
        total += less[i] + own[i];
    }
    for (size_t first = from; first < to; first += 32) {
        const bool mine = expert_of(first + lane) == expert;
        const unsigned all = __ballot_sync(0xffffffffu, mine);
        if (mine) {
            places[first + lane] = start + __popc(all & ((1u << lane) - 1));
        }
        start += __popc(all);
    }
    if (threadIdx.x == 0 && expert < experts) {
        ends[expert] = total;
    }
}

// Each row of `x`, of which there are `copies`, goes to the places of its copies. One block a row of the result.
template <typename T> __device__ void permute(const T *x, const unsigned *places, T *y, size_t width, size_t copies) {
    using Whole = Vector<T, 16 / sizeof(T)>;
    x += blockIdx.x / (unsigned)copies * width;
    y += places[blockIdx.x] * width;
    if (in_vectors<Whole>(x, width) && in_vectors<Whole>(y, width)) {
        for (size_t i = threadIdx.x; i < width * sizeof(T) / sizeof(Whole); i += blockDim.x) {
            ((Whole *)y)[i] = ((const Whole *)x)[i];
        }
        return;
    }
    for (size_t i = threadIdx.x; i < width; i += blockDim.x) {
        y[i] = x[i];
    }
}

// Columns [column, column + COUNT) of the weighted sum of a token's rows, which `places` names.
template <unsigned COUNT, typename T>
__device__ void sum_rows(const T *y, const unsigned *places, const float *weights, const T *common, T *x, size_t column,
                         size_t rows, size_t width, size_t copies) {
    using Whole = Vector<T, COUNT>;
    float sums[COUNT] = {};
    for (size_t k = 0; k < copies; k++) {
        const bool there = places[k] < rows;
        const Whole row = *(const Whole *)(y + (there ? places[k] : 0) * width + column);
        UNROLL
        for (unsigned i = 0; i < COUNT; i++) {
            sums[i] += weights[k] * (there ? widen(row.at[i]) : NAN);
        }
    }
    Whole result, added = {};
    if (common) {
        added = *(const Whole *)(common + column);
    }
    UNROLL
    for (unsigned i = 0; i < COUNT; i++) {
        result.at[i] = rounded<T>(common ? sums[i] + widen(added.at[i]) : sums[i]);
    }
    *(Whole *)(x + column) = result;
}

// The weighted sum of the `copies` rows of each token, in their order, and its row of `common`, if there is one, of `rows` rows. A place
// beyond the rows makes the sum no number. One block a token.
template <typename T>
__device__ void unpermute(const T *y, const unsigned *places, const float *weights, const T *common, T *x, size_t rows,
                          size_t width, size_t copies) {
    constexpr unsigned WHOLE = 16 / sizeof(T);
    using Whole = Vector<T, WHOLE>;
    places += blockIdx.x * copies;
    weights += blockIdx.x * copies;
    x += blockIdx.x * width;
    common = common ? common + blockIdx.x * width : common;
    if (in_vectors<Whole>(y, width) && in_vectors<Whole>(x, width) && in_vectors<Whole>(common, width)) {
        for (size_t i = threadIdx.x * WHOLE; i < width; i += blockDim.x * WHOLE) {
            sum_rows<WHOLE>(y, places, weights, common, x, i, rows, width, copies);
        }
        return;
    }
    for (size_t i = threadIdx.x; i < width; i += blockDim.x) {
        sum_rows<1>(y, places, weights, common, x, i, rows, width, copies);
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
    extern "C" __global__ void permute_##SUFFIX(const T *x, const unsigned *places, T *y, size_t width,                \
                                                size_t copies) {                                                       \
        permute<T>(x, places, y, width, copies);                                                                       \
    }                                                                                                                  \
    extern "C" __global__ void unpermute_##SUFFIX(const T *y, const unsigned *places, const float *weights,            \
                                                  const T *common, T *x, size_t rows, size_t width, size_t copies) {   \
        unpermute<T>(y, places, weights, common, x, rows, width, copies);                                              \
    }
FOR_EACH_TYPE(ENTRIES)
