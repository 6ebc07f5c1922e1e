// Fused operators of one row. All compute in float and round once.
#include "real.cuh"

// Exponentials over their sum. One block a row of `width` elements.
template <typename T> __device__ void softmax(const T *x, T *y, size_t width) {
    x += blockIdx.x * width;
    y += blockIdx.x * width;
    float largest = -INFINITY;
    for (size_t i = threadIdx.x; i < width; i += blockDim.x) {
        largest = fmaxf(largest, widen(x[i]));
    }
    largest = across_block<Max>(largest);
    float sum = 0.0f;
    for (size_t i = threadIdx.x; i < width; i += blockDim.x) {
        sum += expf(widen(x[i]) - largest);
    }
    sum = across_block<Sum>(sum);
    for (size_t i = threadIdx.x; i < width; i += blockDim.x) {
        y[i] = rounded<T>(expf(widen(x[i]) - largest) / sum);
    }
}

// silu(gate) * up of rows [gate | up] of 2 * `half` elements. One thread an element of the result.
template <typename T> __device__ void swiglu(const T *x, T *y, size_t count, size_t half) {
    const size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) {
        const size_t row = i / half, column = i % half;
        const float gate = widen(x[row * 2 * half + column]), up = widen(x[row * 2 * half + half + column]);
        y[i] = rounded<T>(gate / (1.0f + expf(-gate)) * up);
    }
}

// sum = x + residual, rounded, as later layers see it; y = sum / sqrt(mean(sum^2) + eps) * weight. One block a row.
template <typename T>
__device__ void add_rms_norm(const T *x, const T *residual, const T *weight, T *y, T *sum, size_t width, float eps) {
    const size_t start = blockIdx.x * width;
    float squares = 0.0f;
    for (size_t i = threadIdx.x; i < width; i += blockDim.x) {
        const T both = rounded<T>(widen(x[start + i]) + widen(residual[start + i]));
        sum[start + i] = both;
        squares += widen(both) * widen(both);
    }
    const float scale = 1.0f / sqrtf(across_block<Sum>(squares) / (float)width + eps);
    // Each thread reads back what it has written itself.
    for (size_t i = threadIdx.x; i < width; i += blockDim.x) {
        y[start + i] = rounded<T>(widen(sum[start + i]) * scale * widen(weight[i]));
    }
}

// Where the rows [B, H, S, D] of a view lie, in elements; the last dimension is dense.
struct Rows {
    size_t heads, positions, width;
    size_t batch_stride, head_stride, position_stride;
    // Of the tables of angles: from batch to batch (zero when all share them), and from position to position.
    size_t table_batch_stride, table_stride;
};

// Rotates each pair (x[i], x[i + D/2]) by the angle of its position and i. One thread a pair; y is row-major.
template <typename T>
__device__ void rotary(const T *x, const float *cosines, const float *sines, T *y, const Rows &rows, size_t pairs) {
    const size_t pair = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (pair >= pairs) {
        return;
    }
    const size_t half = rows.width / 2, i = pair % half, row = pair / half;
    const size_t position = row % rows.positions, head = row / rows.positions % rows.heads;
    const size_t batch = row / rows.positions / rows.heads;
    const T *from = x + batch * rows.batch_stride + head * rows.head_stride + position * rows.position_stride;
    const size_t angle = batch * rows.table_batch_stride + position * rows.table_stride + i;
    const float a = widen(from[i]), b = widen(from[i + half]), c = cosines[angle], s = sines[angle];
    y[row * rows.width + i] = rounded<T>(a * c - b * s);
    y[row * rows.width + half + i] = rounded<T>(b * c + a * s);
}

#define ENTRIES(SUFFIX, T)                                                                                             \
    extern "C" __global__ void softmax_##SUFFIX(const T *x, T *y, size_t width) { softmax<T>(x, y, width); }           \
    extern "C" __global__ void swiglu_##SUFFIX(const T *x, T *y, size_t count, size_t half) {                          \
        swiglu<T>(x, y, count, half);                                                                                  \
    }                                                                                                                  \
    extern "C" __global__ void add_rms_norm_##SUFFIX(const T *x, const T *residual, const T *weight, T *y, T *sum,     \
                                                     size_t width, float eps) {                                        \
        add_rms_norm<T>(x, residual, weight, y, sum, width, eps);                                                      \
    }                                                                                                                  \
    extern "C" __global__ void rotary_##SUFFIX(const T *x, const float *cosines, const float *sines, T *y, Rows rows,  \
                                               size_t pairs) {                                                         \
        rotary<T>(x, cosines, sines, y, rows, pairs);                                                                  \
    }
FOR_EACH_TYPE(ENTRIES)
