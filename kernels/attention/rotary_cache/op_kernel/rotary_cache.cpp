// What stands between the projection of queries, keys and values and attention, in one launch: the norms of heads where a
// model has them, the rotary embedding, and the write of keys and values to the cache at positions that only the device
// knows. A position outside of the cache stops the device (Trap).
//
// `qkv` is [batch, tokens, heads + 2 kv_heads, width], the rotated queries [batch, tokens, heads, width], a cache
// [batch, kv_heads, capacity, width]. A piece of work is a run of heads of one token.
#include "../../../common/vector.h"
#include "rotary_cache_tiling.h"

namespace {

using namespace npu;

template <typename T>
class RotaryCache {
public:
    __aicore__ inline RotaryCache(GM_ADDR qkv, GM_ADDR cosines, GM_ADDR sines, GM_ADDR positions, GM_ADDR queryWeight,
                                  GM_ADDR keyWeight, GM_ADDR queries, GM_ADDR keys, GM_ADDR values, GM_ADDR tiling)
        : t(ReadTiling<RotaryCacheTiling>(tiling)), all(t.heads + 2 * t.kv_heads), half(t.width / 2),
          share(t.batch * t.tokens * t.pieces)
    {
        uint64_t tokens = static_cast<uint64_t>(t.batch) * t.tokens;
        uint64_t tableRows = t.table_batch == 0 ? t.tokens : static_cast<uint64_t>(t.table_batch) * t.batch;
        uint64_t cache = static_cast<uint64_t>(t.batch) * t.kv_heads * t.capacity * t.width;
        Bind(qkvGlobal, qkv, tokens * all * t.width);
        Bind(cosGlobal, cosines, tableRows * t.table_width);
        Bind(sinGlobal, sines, tableRows * t.table_width);
        Bind(queryGlobal, queries, tokens * t.heads * t.width);
        Bind(keyGlobal, keys, cache);
        Bind(valueGlobal, values, cache);
        positionGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ int64_t*>(positions), t.batch);
        if (t.normed != 0) {
            Bind(queryWeightGlobal, queryWeight, t.width);
            Bind(keyWeightGlobal, keyWeight, t.width);
        }

        uint32_t tile = t.rows * t.width;
        pipe.InitBuffer(inQueue, 2, RoundUp(tile * sizeof(T), 256));
        pipe.InitBuffer(tableQueue, 4, RoundUp(t.width * sizeof(T), 256));
        pipe.InitBuffer(outQueue, 2, RoundUp(tile * sizeof(T), 256));
        pipe.InitBuffer(wideBuffer, RoundUp(tile * sizeof(float), 256));
        pipe.InitBuffer(turnedBuffer, RoundUp(tile * sizeof(float), 256));
        pipe.InitBuffer(productBuffer, RoundUp(tile * sizeof(float), 256));
        pipe.InitBuffer(cosBuffer, RoundUp(half * sizeof(float), 256));
        pipe.InitBuffer(sinBuffer, RoundUp(half * sizeof(float), 256));
        pipe.InitBuffer(weightBuffer, RoundUp(2 * t.width * sizeof(float), 256));
        pipe.InitBuffer(rowBuffer, 2 * RoundUp(t.rows, LANES) * sizeof(float));
        pipe.InitBuffer(spreadBuffer, RoundUp(t.rows, BLOCK_FLOATS) * BLOCK_BYTES);
    }

    __aicore__ inline void Process()
    {
        if (share.count == 0) {
            return;
        }
        Duplicate(rowBuffer.Get<float>(), 0.0f, static_cast<int32_t>(2 * RoundUp(t.rows, LANES)));
        PipeBarrier<PIPE_V>();
        if (t.normed != 0) {
            LoadRow(weightBuffer.Get<float>(), queryWeightGlobal, 0, t.width);
            LoadRow(weightBuffer.Get<float>()[t.width], keyWeightGlobal, 0, t.width);
        }
        for (uint32_t piece = share.first; piece < share.first + share.count; ++piece) {
            uint32_t token = piece / t.pieces;
            uint32_t first = piece % t.pieces * t.rows;
            uint32_t end = Smaller(first + t.rows, all);
            if (piece == share.first || piece % t.pieces == 0) {
                LoadTables(token);
            }
            // A run's kinds of heads go different ways.
            Heads(token, first, Smaller(end, t.heads), QUERIES);
            Heads(token, first < t.heads ? t.heads : first, Smaller(end, t.heads + t.kv_heads), KEYS);
            Heads(token, first < t.heads + t.kv_heads ? t.heads + t.kv_heads : first, end, VALUES);
        }
    }

private:
    enum Kind { QUERIES, KEYS, VALUES };

    __aicore__ inline void Bind(GlobalTensor<T>& tensor, GM_ADDR address, uint64_t elements)
    {
        tensor.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(address), elements);
    }

    __aicore__ inline void LoadRow(const LocalTensor<float>& to, const GlobalTensor<T>& from, uint64_t at, uint32_t length)
    {
        LocalTensor<T> local = tableQueue.template AllocTensor<T>();
        CopyIn(local, from[at], 1, length);
        tableQueue.EnQue(local);
        local = tableQueue.template DeQue<T>();
        Widen(to, local, length);
        PipeBarrier<PIPE_V>();
        tableQueue.FreeTensor(local);
    }

    __aicore__ inline void LoadTables(uint32_t token)
    {
        uint64_t row = static_cast<uint64_t>(token / t.tokens) * t.table_batch + token % t.tokens;
        LoadRow(cosBuffer.Get<float>(), cosGlobal, row * t.table_width, half);
        LoadRow(sinBuffer.Get<float>(), sinGlobal, row * t.table_width, half);
    }

    __aicore__ inline void Heads(uint32_t token, uint32_t first, uint32_t end, Kind kind)
    {
        if (first >= end) {
            return;
        }
        uint32_t rows = end - first;
        uint32_t count = rows * t.width;
        LocalTensor<T> in = inQueue.template AllocTensor<T>();
        CopyIn(in, qkvGlobal[(static_cast<uint64_t>(token) * all + first) * t.width], 1, count);
        inQueue.EnQue(in);
        in = inQueue.template DeQue<T>();
        LocalTensor<float> wide = wideBuffer.Get<float>();
        Widen(wide, in, count);
        PipeBarrier<PIPE_V>();
        inQueue.FreeTensor(in);
        LocalTensor<T> out = outQueue.template AllocTensor<T>();
        if (kind == VALUES) {
            Narrow(out, wide, count);
        } else {
            if (t.normed != 0) {
                Norm(wide, weightBuffer.Get<float>()[kind == QUERIES ? 0 : t.width], rows);
                // The norm is a step of its own elsewhere, and rounds.
                Narrow(out, wide, count);
                PipeBarrier<PIPE_V>();
                Widen(wide, out, count);
                PipeBarrier<PIPE_V>();
            }
            Turn(wide, rows);
            Narrow(out, turnedBuffer.Get<float>(), count);
        }
        outQueue.EnQue(out);
        Store(token, first, rows, kind);
    }

    // Each row over the root of the mean of its squares, times the weight.
    __aicore__ inline void Norm(const LocalTensor<float>& wide, const LocalTensor<float>& weight, uint32_t rows)
    {
        LocalTensor<float> squares = productBuffer.Get<float>();
        LocalTensor<float> roots = rowBuffer.Get<float>();
        LocalTensor<float> ones = roots[RoundUp(t.rows, LANES)];
        Mul(squares, wide, wide, static_cast<int32_t>(rows * t.width));
        PipeBarrier<PIPE_V>();
        // The lanes of all rows at once: those beyond a repeat are added to the first.
        for (uint32_t lane = LANES; lane < t.width; lane += LANES) {
            Add(squares, squares, squares[lane], static_cast<uint64_t>(Smaller(LANES, t.width - lane)),
                static_cast<uint8_t>(rows), {1, 1, 1, RowBlocks(), RowBlocks(), RowBlocks()});
            PipeBarrier<PIPE_V>();
        }
        WholeReduceSum(roots, squares, static_cast<int32_t>(Smaller(LANES, t.width)), static_cast<int32_t>(rows), 1, 1,
                       RowBlocks());
        PipeBarrier<PIPE_V>();
        int32_t count = static_cast<int32_t>(RoundUp(rows, BLOCK_FLOATS));
        Muls(roots, roots, FloatOfBits(t.mean_bits), count);
        Duplicate(ones, 1.0f, count);
        PipeBarrier<PIPE_V>();
        Adds(roots, roots, FloatOfBits(t.epsilon_bits), count);
        PipeBarrier<PIPE_V>();
        Sqrt(roots, roots, count);
        PipeBarrier<PIPE_V>();
        Div(ones, ones, roots, count);
        PipeBarrier<PIPE_V>();
        LocalTensor<float> spread = spreadBuffer.Get<float>();
        Brcb(spread, ones, static_cast<uint8_t>(count / BLOCK_FLOATS), {1, 8});
        PipeBarrier<PIPE_V>();
        for (uint32_t lane = 0; lane < t.width; lane += LANES) {
            auto part = wide[lane];
            Mul(part, part, spread, static_cast<uint64_t>(Smaller(LANES, t.width - lane)), static_cast<uint8_t>(rows),
                {1, 1, 0, RowBlocks(), RowBlocks(), 1});
        }
        PipeBarrier<PIPE_V>();
        MulColumns(wide, 0, wide, 0, weight, t.width, rows);
        PipeBarrier<PIPE_V>();
    }

    // Blocks between rows of F32.
    __aicore__ inline uint8_t RowBlocks()
    {
        return static_cast<uint8_t>(t.width / BLOCK_FLOATS);
    }

    // to = left * table for `columns` columns of rows, from the given ones on.
    __aicore__ inline void MulColumns(const LocalTensor<float>& to, uint32_t toColumn, const LocalTensor<float>& left,
                                      uint32_t leftColumn, const LocalTensor<float>& table, uint32_t columns, uint32_t rows)
    {
        for (uint32_t lane = 0; lane < columns; lane += LANES) {
            Mul(to[toColumn + lane], left[leftColumn + lane], table[lane],
                static_cast<uint64_t>(Smaller(LANES, columns - lane)), static_cast<uint8_t>(rows),
                {1, 1, 1, RowBlocks(), RowBlocks(), 0});
        }
    }

    // turned = (first cos - second sin, second cos + first sin) for the halves of each row.
    __aicore__ inline void Turn(const LocalTensor<float>& wide, uint32_t rows)
    {
        LocalTensor<float> turned = turnedBuffer.Get<float>();
        LocalTensor<float> products = productBuffer.Get<float>();
        MulColumns(turned, 0, wide, 0, cosBuffer.Get<float>(), half, rows);
        MulColumns(turned, half, wide, half, cosBuffer.Get<float>(), half, rows);
        MulColumns(products, 0, wide, half, sinBuffer.Get<float>(), half, rows);
        MulColumns(products, half, wide, 0, sinBuffer.Get<float>(), half, rows);
        PipeBarrier<PIPE_V>();
        BinaryRepeatParams along{1, 1, 1, RowBlocks(), RowBlocks(), RowBlocks()};
        for (uint32_t lane = 0; lane < half; lane += LANES) {
            uint64_t mask = Smaller(LANES, half - lane);
            auto first = turned[lane];
            auto second = turned[half + lane];
            Sub(first, first, products[lane], mask, static_cast<uint8_t>(rows), along);
            Add(second, second, products[half + lane], mask, static_cast<uint8_t>(rows), along);
        }
        PipeBarrier<PIPE_V>();
    }

    __aicore__ inline void Store(uint32_t token, uint32_t first, uint32_t rows, Kind kind)
    {
        LocalTensor<T> out = outQueue.template DeQue<T>();
        if (kind == QUERIES) {
            CopyOut(queryGlobal[(static_cast<uint64_t>(token) * t.heads + first) * t.width], out, 1, rows * t.width);
        } else {
            uint32_t sequence = token / t.tokens;
            int64_t position = positionGlobal.GetValue(sequence) + token % t.tokens;
            if (position < 0 || position >= static_cast<int64_t>(t.capacity)) {
                Trap();
            } else {
                uint32_t head = first - t.heads - (kind == VALUES ? t.kv_heads : 0);
                uint64_t row = (static_cast<uint64_t>(sequence) * t.kv_heads + head) * t.capacity + position;
                CopyOut((kind == KEYS ? keyGlobal : valueGlobal)[row * t.width], out, rows, t.width,
                        (t.capacity - 1) * t.width);
            }
        }
        outQueue.FreeTensor(out);
    }

    RotaryCacheTiling t;
    uint32_t all;  // heads of a token
    uint32_t half; // of a head's width
    Share share;
    TPipe pipe;
    TQue<TPosition::VECIN, 2> inQueue;
    TQue<TPosition::VECIN, 4> tableQueue;
    TQue<TPosition::VECOUT, 2> outQueue;
    TBuf<TPosition::VECCALC> wideBuffer, turnedBuffer, productBuffer, cosBuffer, sinBuffer, weightBuffer;
    TBuf<TPosition::VECCALC> rowBuffer, spreadBuffer;
    GlobalTensor<T> qkvGlobal, cosGlobal, sinGlobal, queryWeightGlobal, keyWeightGlobal, queryGlobal, keyGlobal, valueGlobal;
    GlobalTensor<int64_t> positionGlobal;
};

} // namespace

#define ENTRY(NAME, TYPE)                                                                                             \
    extern "C" __global__ __aicore__ void rotary_cache_##NAME(GM_ADDR qkv, GM_ADDR cosines, GM_ADDR sines,            \
                                                              GM_ADDR positions, GM_ADDR queryWeight,                 \
                                                              GM_ADDR keyWeight, GM_ADDR queries, GM_ADDR keys,       \
                                                              GM_ADDR values, GM_ADDR workspace, GM_ADDR tiling)      \
    {                                                                                                                 \
        KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);                                                               \
        RotaryCache<TYPE>(qkv, cosines, sines, positions, queryWeight, keyWeight, queries, keys, values, tiling)      \
            .Process();                                                                                               \
    }

FOR_FLOATS(ENTRY)
