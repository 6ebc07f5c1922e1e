// Products of groups of rows with each group's matrix: the experts of a mixture.
#include "real.cuh"
#include "tensor.cuh"

struct Grouped {
    size_t rows, inner, outputs, experts;
};

// Rows [first, end) of one expert, or of none: then `expert` is that behind the last, and what is made of the rows is no number. They
// are multiplied for one column of tiles of outputs.
struct Tile {
    unsigned expert, first, end, column;
};

// This block's tile, of HEIGHT rows at most, of as many as fill `columns` of them: those of the first expert first, and behind
// the last expert's the rows that nobody has. An expert's row tiles of one column follow each other, so that blocks which run at a time
// read the same matrix. Empty if there are not so many. `ends` is not trusted to rise nor to stay within the rows. All lanes of a warp
// must call: each has an expert of 32 in turn.
template <unsigned HEIGHT> __device__ Tile tile_of(const long long *ends, const Grouped &size, unsigned columns) {
    const unsigned lane = threadIdx.x % 32, every = 0xffffffffu, rows = (unsigned)size.rows, experts = (unsigned)size.experts;
    unsigned number = blockIdx.x, reached = 0;
    for (unsigned base = 0; base <= experts; base += 32) {
        const long long told = base + lane < experts ? ends[base + lane] : (long long)rows;
        unsigned end = told > (long long)rows ? rows : told > (long long)reached ? (unsigned)told : reached;
        for (unsigned distance = 1; distance < 32; distance *= 2) {
            const unsigned before = __shfl_up_sync(every, end, distance);
            end = before > end ? before : end;
        }
        const unsigned before = __shfl_up_sync(every, end, 1), first = lane ? before : reached;
        const unsigned tiles = (end - first + HEIGHT - 1) / HEIGHT;
        // Tiles up to this expert's last.
        unsigned behind = tiles * columns;
        for (unsigned distance = 1; distance < 32; distance *= 2) {
            const unsigned others = __shfl_up_sync(every, behind, distance);
            behind += lane < distance ? 0 : others;
        }
        if (const unsigned has = __ballot_sync(every, number < behind)) {
            const int found = __ffs((int)has) - 1;
            number -= __shfl_sync(every, behind - tiles * columns, found);
            const unsigned of_rows = __shfl_sync(every, tiles, found), last = __shfl_sync(every, end, found);
            const unsigned start = __shfl_sync(every, first, found) + number % of_rows * HEIGHT;
            return {base + found, start, last - start > HEIGHT ? start + HEIGHT : last, number / of_rows};
        }
        number -= __shfl_sync(every, behind, 31);
        reached = __shfl_sync(every, end, 31);
    }
    return {experts, 0, 0, 0};
}

// Where experts have few rows: tiles of FEW_ROWS rows. Each of eight warps has FEW_OUTPUTS outputs and goes along the inner width, so
// that a matrix is read once.
constexpr unsigned FEW_ROWS = 4, FEW_OUTPUTS = 4, FEW_WIDE = 8 * FEW_OUTPUTS;

// Adds up the products of `rows` rows of `x` with `outputs` of a matrix that are this lane's, COUNT elements at a time; what is made of rows and
// outputs beyond is of no use to anybody.
template <unsigned COUNT, typename T>
__device__ void few_products(float (&sums)[FEW_OUTPUTS][FEW_ROWS], const T *x, const T *weight, unsigned rows,
                             unsigned outputs, unsigned inner) {
    using Part = Vector<T, COUNT>;
    for (unsigned i = threadIdx.x % 32 * COUNT; i < inner; i += 32 * COUNT) {
        Part of_x[FEW_ROWS], of_weight[FEW_OUTPUTS];
        UNROLL
        for (unsigned o = 0; o < FEW_OUTPUTS; o++) {
            of_weight[o] = *(const Part *)(weight + (o < outputs ? o : 0) * inner + i);
        }
        UNROLL
        for (unsigned row = 0; row < FEW_ROWS; row++) {
            of_x[row] = *(const Part *)(x + (row < rows ? row : 0) * inner + i);
        }
        UNROLL
        for (unsigned o = 0; o < FEW_OUTPUTS; o++) {
            UNROLL
            for (unsigned row = 0; row < FEW_ROWS; row++) {
                UNROLL
                for (unsigned j = 0; j < COUNT; j++) {
                    sums[o][row] += widen(of_weight[o].at[j]) * widen(of_x[row].at[j]);
                }
            }
        }
    }
}

template <typename T>
__device__ void grouped_few(const T *x, const T *weight, const long long *ends, T *y, const Grouped &size) {
    constexpr unsigned WHOLE = 16 / sizeof(T);
    const Tile tile = tile_of<FEW_ROWS>(ends, size, (unsigned)((size.outputs + FEW_WIDE - 1) / FEW_WIDE));
    const size_t output = tile.column * FEW_WIDE + threadIdx.x / 32 * FEW_OUTPUTS;
    if (tile.first >= tile.end || output >= size.outputs) {
        return;
    }
    const bool nobodys = tile.expert == size.experts;
    const unsigned rows = tile.end - tile.first;
    const unsigned outputs = size.outputs - output < FEW_OUTPUTS ? (unsigned)(size.outputs - output) : FEW_OUTPUTS;
    float sums[FEW_OUTPUTS][FEW_ROWS] = {};
    if (!nobodys) {
        x += tile.first * size.inner;
        weight += (tile.expert * size.outputs + output) * size.inner;
        if (in_vectors<Vector<T, WHOLE>>(x, size.inner) && in_vectors<Vector<T, WHOLE>>(weight, size.inner)) {
            few_products<WHOLE>(sums, x, weight, rows, outputs, (unsigned)size.inner);
        } else {
            few_products<1>(sums, x, weight, rows, outputs, (unsigned)size.inner);
        }
    }
    UNROLL
    for (unsigned o = 0; o < FEW_OUTPUTS; o++) {
        UNROLL
        for (unsigned row = 0; row < FEW_ROWS; row++) {
            const float sum = nobodys ? NAN : across_warp<Sum>(sums[o][row]);
            if (threadIdx.x % 32 == 0 && row < rows && o < outputs) {
                y[(tile.first + row) * size.outputs + output + o] = rounded<T>(sum);
            }
        }
    }
}

// Where experts have many rows: tiles of HEIGHT rows by WIDE outputs, in steps of the inner width, by four warps.
constexpr unsigned WIDE = 128, STEP = 32, MANY_THREADS = 128;

#if TENSOR_CORES
// A step of a row in shared memory is this many chunks of 16 bytes, of 16-bit elements.
constexpr unsigned CHUNKS = STEP / 8;
template <typename T> using Chunk = Vector<T, 8>;

// Where a chunk of a row lies: the same one of eight rows that follow each other, which ldmatrix reads at once, in different banks.
__device__ inline unsigned chunk_at(unsigned row, unsigned chunk) { return row * CHUNKS + (chunk ^ (row / 2 % CHUNKS)); }

// Starts to copy a step of ROWS rows of a matrix `width` wide, of which `rows` are there from this thread's first on; zeros beyond. A thread
// has the chunk of every 32nd row that begins in `column`: the first at `from`, for the place `to`.
template <unsigned ROWS, typename T>
__device__ void load_step(Chunk<T> *to, const T *from, int rows, unsigned column, unsigned width, bool aligned) {
    constexpr unsigned EVERY = MANY_THREADS / CHUNKS;
    if (aligned) {
        UNROLL
        for (unsigned row = 0; row < ROWS; row += EVERY, from += EVERY * (size_t)width) {
            start_copy(to + row * CHUNKS, from, (int)row < rows && column < width);
        }
        return;
    }
    for (unsigned row = 0; row < ROWS; row += EVERY, from += EVERY * (size_t)width) {
        Chunk<T> elements;
        UNROLL
        for (unsigned i = 0; i < 8; i++) {
            elements.at[i] = (int)row < rows && column + i < width ? from[i] : rounded<T>(0.0f);
        }
        to[row * CHUNKS] = elements;
    }
}

// A tile on tensor cores: of four warps, two share the rows, 16 in turn, and two the outputs, 64 each. FRAGMENTS is how often a warp has 16
// rows: no more than the tile needs. `of_x` and `of_weight` have room for STAGES steps, of which all but one are on their way.
template <unsigned HEIGHT, unsigned STAGES, unsigned FRAGMENTS, typename T>
__device__ void multiply(const T *x, const T *weight, T *y, const Tile &tile, const Grouped &size, Chunk<T> *of_x,
                         Chunk<T> *of_weight) {
    if constexpr (FRAGMENTS > 1) {
        if (tile.end - tile.first <= (FRAGMENTS - 1) * 32) {
            return multiply<HEIGHT, STAGES, FRAGMENTS - 1>(x, weight, y, tile, size, of_x, of_weight);
        }
    }
    const unsigned lane = threadIdx.x % 32, share = threadIdx.x / 32 % 2, side = threadIdx.x / 64;
    const unsigned inner = (unsigned)size.inner, outputs = (unsigned)size.outputs, output = tile.column * WIDE;
    const unsigned rows = tile.end - tile.first, columns = outputs - output < WIDE ? outputs - output : WIDE;
    const bool nobodys = tile.expert == size.experts;
    const unsigned steps = nobodys ? 0 : (inner + STEP - 1) / STEP;
    x += tile.first * size.inner;
    weight += (tile.expert * size.outputs + output) * size.inner;
    const bool aligned = in_vectors<Chunk<T>>(x, inner) && in_vectors<Chunk<T>>(weight, inner);
    const unsigned row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS, place = chunk_at(row, chunk);
    const size_t start = (size_t)row * inner + chunk * 8;
    auto load = [&](unsigned step, unsigned stage) {
        if (step < steps) {
            const unsigned column = step * STEP + chunk * 8;
            const T *from_x = x + (start + step * STEP), *from_weight = weight + (start + step * STEP);
            load_step<FRAGMENTS * 32>(of_x + stage * HEIGHT * CHUNKS + place, from_x, (int)(rows - row), column, inner, aligned);
            load_step<WIDE>(of_weight + stage * WIDE * CHUNKS + place, from_weight, (int)(columns - row), column, inner, aligned);
        }
        end_group();
    };
    // Which row of its matrices a lane names; 16 columns further are two chunks, the other bit of a chunk's number.
    const unsigned at_x = chunk_at(share * 16 + lane % 16, lane / 16);
    const unsigned at_weight = chunk_at(side * 64 + lane / 16 * 8 + lane % 8, lane / 8 % 2);
    UNROLL
    for (unsigned stage = 0; stage + 1 < STAGES; stage++) {
        load(stage, stage);
    }
    float sums[FRAGMENTS][8][4] = {};
    for (unsigned step = 0, stage = 0; step < steps; step++) {
        wait_for_groups<STAGES - 2>();
        // This step has arrived for all threads, and all are done with the one before, whose room the next one takes.
        __syncthreads();
        load(step + STAGES - 1, stage == 0 ? STAGES - 1 : stage - 1);
        UNROLL
        for (unsigned k = 0; k < STEP / 16; k++) {
            const Chunk<T> *part_of_x = of_x + stage * HEIGHT * CHUNKS + (at_x ^ 2 * k);
            const Chunk<T> *part_of_weight = of_weight + stage * WIDE * CHUNKS + (at_weight ^ 2 * k);
            unsigned a[FRAGMENTS][4], b[4][4];
            UNROLL
            for (unsigned m = 0; m < FRAGMENTS; m++) {
                load_matrices(a[m], part_of_x + m * 32 * CHUNKS);
            }
            UNROLL
            for (unsigned n = 0; n < 4; n++) {
                load_matrices(b[n], part_of_weight + n * 16 * CHUNKS);
            }
            UNROLL
            for (unsigned m = 0; m < FRAGMENTS; m++) {
                UNROLL
                for (unsigned n = 0; n < 8; n++) {
                    multiply_add(sums[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1], T());
                }
            }
        }
        stage = stage + 1 == STAGES ? 0 : stage + 1;
    }
    // Of each 16 by 8 sums a lane has two next to each other in a row, and two in the eighth row below.
    const bool pairs = in_vectors<Vector<T, 2>>(y, outputs);
    UNROLL
    for (unsigned m = 0; m < FRAGMENTS; m++) {
        UNROLL
        for (unsigned n = 0; n < 8; n++) {
            UNROLL
            for (unsigned half = 0; half < 2; half++) {
                const unsigned row = (2 * m + share) * 16 + half * 8 + lane / 4, column = side * 64 + n * 8 + lane % 4 * 2;
                T *to = y + (tile.first + row) * size.outputs + output + column;
                const T left = rounded<T>(nobodys ? NAN : sums[m][n][2 * half]);
                const T right = rounded<T>(nobodys ? NAN : sums[m][n][2 * half + 1]);
                if (row >= rows || column >= columns) {
                    continue;
                }
                if (pairs) {
                    *(Vector<T, 2> *)to = {left, right};
                    continue;
                }
                to[0] = left;
                if (column + 1 < columns) {
                    to[1] = right;
                }
            }
        }
    }
}
#endif

// Columns `start`, … of rows `first`, … up to `end` of a matrix `width` wide, one below the other; zeros beyond.
constexpr unsigned PLAIN = 64;
template <typename T>
__device__ void load_columns(float (*to)[PLAIN + 1], const T *from, size_t first, size_t end, size_t start, size_t width) {
    for (unsigned i = threadIdx.x; i < PLAIN * STEP; i += MANY_THREADS) {
        const size_t row = first + i / STEP, column = start + i % STEP;
        to[i % STEP][i / STEP] = row < end && column < width ? widen(from[row * width + column]) : 0.0f;
    }
}

// Rows [first, end) by outputs [output, last) of a tile without tensor cores, PLAIN of both at most: each thread has eight rows that follow
// each other and four outputs that are 16 apart.
template <typename T>
__device__ void multiply_plain(const T *x, const T *weight, T *y, const Grouped &size, size_t first, size_t end,
                               size_t output, size_t last, bool nobodys) {
    __shared__ float of_x[STEP][PLAIN + 1], of_weight[STEP][PLAIN + 1];
    const unsigned row = threadIdx.x / 16 * 8, column = threadIdx.x % 16;
    float sums[8][4] = {};
    for (size_t start = 0; start < size.inner && !nobodys; start += STEP) {
        load_columns(of_x, x, first, end, start, size.inner);
        load_columns(of_weight, weight, output, last, start, size.inner);
        __syncthreads();
        for (unsigned inner = 0; inner < STEP && first + row < end; inner++) {
            UNROLL
            for (unsigned o = 0; o < 4; o++) {
                const float factor = of_weight[inner][column + 16 * o];
                UNROLL
                for (unsigned i = 0; i < 8; i++) {
                    sums[i][o] += factor * of_x[inner][row + i];
                }
            }
        }
        __syncthreads();
    }
    UNROLL
    for (unsigned i = 0; i < 8; i++) {
        UNROLL
        for (unsigned o = 0; o < 4; o++) {
            const size_t at = output + column + 16 * o;
            if (first + row + i < end && at < last) {
                y[(first + row + i) * size.outputs + at] = rounded<T>(nobodys ? NAN : sums[i][o]);
            }
        }
    }
}

template <unsigned HEIGHT, unsigned STAGES, typename T>
__device__ void grouped_many(const T *x, const T *weight, const long long *ends, T *y, const Grouped &size) {
    const Tile tile = tile_of<HEIGHT>(ends, size, (unsigned)((size.outputs + WIDE - 1) / WIDE));
    if (tile.first >= tile.end) {
        return;
    }
#if TENSOR_CORES
    if constexpr (sizeof(T) == 2) {
        __shared__ Chunk<T> of_x[STAGES * HEIGHT * CHUNKS], of_weight[STAGES * WIDE * CHUNKS];
        return multiply<HEIGHT, STAGES, HEIGHT / 32>(x, weight, y, tile, size, of_x, of_weight);
    }
#endif
    weight += tile.expert * size.outputs * size.inner;
    const size_t most = ((size_t)tile.column + 1) * WIDE, last = most < size.outputs ? most : size.outputs;
    for (size_t first = tile.first; first < tile.end; first += PLAIN) {
        for (size_t output = tile.column * WIDE; output < last; output += PLAIN) {
            const size_t end = first + PLAIN < tile.end ? first + PLAIN : tile.end;
            const size_t behind = output + PLAIN < last ? output + PLAIN : last;
            multiply_plain(x, weight, y, size, first, end, output, behind, tile.expert == size.experts);
        }
    }
}

// STAGES steps take 48 KiB of shared memory, the most that a kernel has unasked; BLOCKS of them run on a multiprocessor at least.
#define MANY(HEIGHT, STAGES, BLOCKS, SUFFIX, T)                                                                        \
    extern "C" __global__ void __launch_bounds__(MANY_THREADS, BLOCKS) grouped_many_##HEIGHT##_##SUFFIX(               \
        const T *x, const T *weight, const long long *ends, T *y, Grouped size) {                                      \
        grouped_many<HEIGHT, STAGES>(x, weight, ends, y, size);                                                        \
    }
#define ENTRIES(SUFFIX, T)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256, 3)                                                                  \
        grouped_few_##SUFFIX(const T *x, const T *weight, const long long *ends, T *y, Grouped size) {                 \
        grouped_few(x, weight, ends, y, size);                                                                         \
    }                                                                                                                  \
    MANY(64, 4, 3, SUFFIX, T)                                                                                          \
    MANY(128, 3, 2, SUFFIX, T)
FOR_EACH_TYPE(ENTRIES)
