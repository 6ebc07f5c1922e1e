// Rows grouped by expert, each group times its expert's matrix: y[r] = x[r] * weight[expert of r]ᵀ, and with SwiGLU
// y[r] = silu(x[r] * gateᵀ) * (x[r] * upᵀ), where an expert's matrix is gate above up.
//
// The tiles of all groups form one list, which the blocks deal out among them: an empty expert costs nothing, a full one
// is shared by all cores. Tiles that follow each other share their columns of weight, which L2 then reads once.
#include "../../../common/cube.h"
#include "grouped_matmul_tiling.h"

namespace {

using namespace npu;

struct Tile {
    uint32_t expert;
    uint32_t row;
    uint32_t rows;
    uint32_t column;
    uint32_t columns;
};

// The tiles of this block, one after the other. Both kinds of core of a block walk them in step.
class Walk {
public:
    __aicore__ inline Walk(const GroupedMatmulTiling& tiling, const GlobalTensor<int64_t>& groupEnds)
        : t(tiling), ends(groupEnds), index(BlockOfCore()), across(CeilDiv(tiling.columns, tiling.tile_columns))
    {
        Measure();
    }

    __aicore__ inline bool Next(Tile& tile)
    {
        while (index >= count) {
            index -= count;
            start = end;
            if (++expert >= t.experts) {
                return false;
            }
            Measure();
        }
        uint32_t down = CeilDiv(end - start, t.tile_rows);
        tile.expert = expert;
        tile.row = start + index % down * t.tile_rows;
        tile.rows = Smaller(t.tile_rows, end - tile.row);
        tile.column = index / down * t.tile_columns;
        tile.columns = Smaller(t.tile_columns, t.columns - tile.column);
        index += static_cast<uint32_t>(GetBlockNum());
        return true;
    }

private:
    // The ends come from the device: one that is out of order or beyond the rows makes a group empty or shorter, and
    // reads nothing that is not x's.
    __aicore__ inline void Measure()
    {
        int64_t said = ends.GetValue(expert);
        end = said > static_cast<int64_t>(t.rows) ? t.rows : said < static_cast<int64_t>(start) ? start
                                                                                               : static_cast<uint32_t>(said);
        count = CeilDiv(end - start, t.tile_rows) * across;
    }

    GroupedMatmulTiling t;
    GlobalTensor<int64_t> ends;
    uint32_t index;
    uint32_t across;
    uint32_t expert = 0;
    uint32_t start = 0;
    uint32_t end = 0;
    uint32_t count = 0;
};

// Flags between the cores of a block: a slot of the workspace is full, or free again.
constexpr uint16_t FULL = 0;
constexpr uint16_t FREE = 2;
constexpr uint32_t SLOTS = 2;

template <typename T, bool SWIGLU>
class GroupedMatmul {
public:
    __aicore__ inline GroupedMatmul(GM_ADDR x, GM_ADDR weight, GM_ADDR ends, GM_ADDR y, GM_ADDR workspace, GM_ADDR tiling)
        : t(ReadTiling<GroupedMatmulTiling>(tiling)), weightRows(SWIGLU ? 2 * t.columns : t.columns),
          tileWidth(SWIGLU ? 2 * t.tile_columns : t.tile_columns)
    {
        xGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(x), static_cast<uint64_t>(t.rows) * t.inner);
        weightGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(weight),
                                     static_cast<uint64_t>(t.experts) * weightRows * t.inner);
        endsGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ int64_t*>(ends), t.experts);
        yGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(y), static_cast<uint64_t>(t.rows) * t.columns);
        if constexpr (SWIGLU) {
            uint64_t size = static_cast<uint64_t>(t.tile_rows) * tileWidth;
            uint64_t first = static_cast<uint64_t>(BlockOfCore()) * SLOTS * size * sizeof(float);
            slots.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(workspace + first), SLOTS * size);
        }
    }

    __aicore__ inline void Process()
    {
        if ASCEND_IS_AIC {
            Products();
        }
        if constexpr (SWIGLU) {
            if ASCEND_IS_AIV {
                Gates();
            }
        }
    }

private:
    __aicore__ inline void Products()
    {
        pipe.InitBuffer(leftL1, 2, t.tile_rows * t.depth_l1 * sizeof(T));
        pipe.InitBuffer(rightL1, 2, tileWidth * t.depth_l1 * sizeof(T));
        pipe.InitBuffer(leftL0, 2, t.tile_rows * t.depth_l0 * sizeof(T));
        pipe.InitBuffer(rightL0, 2, tileWidth * t.depth_l0 * sizeof(T));
        pipe.InitBuffer(sums, 1, t.tile_rows * tileWidth * sizeof(float));
        Walk walk(t, endsGlobal);
        Tile tile;
        uint32_t done = 0;
        for (; walk.Next(tile); ++done) {
            LocalTensor<float> sum = sums.AllocTensor<float>();
            Product(sum, tile);
            sums.EnQue(sum);
            sum = sums.DeQue<float>();
            uint32_t tall = RoundUp(tile.rows, FRACTAL_ROWS);
            if constexpr (SWIGLU) {
                uint32_t slot = done % SLOTS;
                if (done >= SLOTS) {
                    CrossCoreWaitFlag(FREE + slot);
                }
                StoreSum(slots[slot * t.tile_rows * tileWidth], sum, tile.rows, 2 * tile.columns, tall, tileWidth);
                CrossCoreSetFlag<2, PIPE_FIX>(FULL + slot);
            } else {
                uint64_t at = static_cast<uint64_t>(tile.row) * t.columns + tile.column;
                StoreSum(yGlobal[at], sum, tile.rows, tile.columns, tall, t.columns);
            }
            sums.FreeTensor(sum);
        }
        if constexpr (SWIGLU) {
            for (uint32_t slot = 0; slot < Smaller(done, SLOTS); ++slot) {
                CrossCoreWaitFlag(FREE + slot);
            }
        }
    }

    __aicore__ inline void Product(const LocalTensor<float>& sum, const Tile& tile)
    {
        uint32_t left = RoundUp(tile.rows, FRACTAL_ROWS);
        uint32_t part = RoundUp(tile.columns, FRACTAL_ROWS);
        uint32_t right = SWIGLU ? 2 * part : part;
        uint64_t expert = static_cast<uint64_t>(tile.expert) * weightRows;
        for (uint32_t k = 0; k < t.inner; k += t.depth_l1) {
            uint32_t depth = Smaller(t.depth_l1, t.inner - k);
            LocalTensor<T> a = leftL1.AllocTensor<T>();
            LoadNzLeft(a, xGlobal[static_cast<uint64_t>(tile.row) * t.inner + k], tile.rows, depth, t.inner, left);
            leftL1.EnQue(a);
            LocalTensor<T> b = rightL1.AllocTensor<T>();
            LoadNz(b, weightGlobal[(expert + tile.column) * t.inner + k], tile.columns, depth, t.inner, right);
            if constexpr (SWIGLU) {
                LoadNz(b[part * C0<T>], weightGlobal[(expert + t.columns + tile.column) * t.inner + k], tile.columns,
                       depth, t.inner, right);
            }
            rightL1.EnQue(b);
            a = leftL1.DeQue<T>();
            b = rightL1.DeQue<T>();
            for (uint32_t at = 0; at < depth; at += t.depth_l0) {
                Step(sum, a, b, tile, left, right, at, Smaller(t.depth_l0, depth - at), k + at == 0);
            }
            leftL1.FreeTensor(a);
            rightL1.FreeTensor(b);
        }
    }

    // What fits L0: `depth` elements from `at` on of the tiles in L1.
    __aicore__ inline void Step(const LocalTensor<float>& sum, const LocalTensor<T>& a, const LocalTensor<T>& b,
                                const Tile& tile, uint32_t left, uint32_t right, uint32_t at, uint32_t depth, bool first)
    {
        uint32_t blocks = CeilDiv(depth, C0<T>);
        LocalTensor<T> l = leftL0.AllocTensor<T>();
        LoadLeft(l, a, left, left / FRACTAL_ROWS, at / C0<T>, blocks);
        leftL0.EnQue(l);
        LocalTensor<T> r = rightL0.AllocTensor<T>();
        LoadRight(r, b, right, right / FRACTAL_ROWS, at / C0<T>, blocks);
        rightL0.EnQue(r);
        l = leftL0.DeQue<T>();
        r = rightL0.DeQue<T>();
        Multiply(sum, l, r, RowsOf(tile.rows), SWIGLU ? 2 * tile.columns : tile.columns, depth, first);
        leftL0.FreeTensor(l);
        rightL0.FreeTensor(r);
    }

    __aicore__ inline void Gates()
    {
        uint32_t chunk = t.chunk_rows * t.tile_columns;
        pipe.InitBuffer(inputs, 2, 2 * chunk * sizeof(float));
        pipe.InitBuffer(outputs, 2, chunk * sizeof(T));
        pipe.InitBuffer(scratch, chunk * sizeof(float));
        Walk walk(t, endsGlobal);
        Tile tile;
        for (uint32_t done = 0; walk.Next(tile); ++done) {
            uint32_t slot = done % SLOTS;
            CrossCoreWaitFlag(FULL + slot);
            uint32_t half = CeilDiv(tile.rows, 2);
            uint32_t first = static_cast<uint32_t>(GetSubBlockIdx()) * half;
            uint32_t last = Smaller(first + half, tile.rows);
            for (uint32_t row = first; row < last; row += t.chunk_rows) {
                Gate(tile, slot, row, Smaller(t.chunk_rows, last - row));
            }
            CrossCoreSetFlag<2, PIPE_MTE2>(FREE + slot);
        }
    }

    // silu(gate) * up for `rows` rows from `row` of a slot.
    __aicore__ inline void Gate(const Tile& tile, uint32_t slot, uint32_t row, uint32_t rows)
    {
        uint32_t count = rows * tile.columns;
        LocalTensor<float> in = inputs.AllocTensor<float>();
        uint64_t at = (static_cast<uint64_t>(slot) * t.tile_rows + row) * tileWidth;
        DataCopyParams runs{static_cast<uint16_t>(rows), static_cast<uint16_t>(tile.columns / BLOCK_FLOATS),
                            static_cast<uint16_t>((tileWidth - tile.columns) / BLOCK_FLOATS), 0};
        DataCopy(in, slots[at], runs);
        DataCopy(in[count], slots[at + tile.columns], runs);
        inputs.EnQue(in);
        in = inputs.DeQue<float>();
        LocalTensor<float> up = in[count];
        LocalTensor<float> work = scratch.Get<float>();
        Muls(work, in, -1.0f, static_cast<int32_t>(count));
        PipeBarrier<PIPE_V>();
        Exp(work, work, static_cast<int32_t>(count));
        Mul(in, in, up, static_cast<int32_t>(count));
        PipeBarrier<PIPE_V>();
        Adds(work, work, 1.0f, static_cast<int32_t>(count));
        PipeBarrier<PIPE_V>();
        Div(work, in, work, static_cast<int32_t>(count));
        PipeBarrier<PIPE_V>();
        inputs.FreeTensor(in);
        LocalTensor<T> out = outputs.AllocTensor<T>();
        Narrow(out, work, count);
        outputs.EnQue(out);
        out = outputs.DeQue<T>();
        uint64_t to = static_cast<uint64_t>(tile.row + row) * t.columns + tile.column;
        CopyOut(yGlobal[to], out, rows, tile.columns, t.columns - tile.columns);
        outputs.FreeTensor(out);
    }

    GroupedMatmulTiling t;
    uint32_t weightRows;
    uint32_t tileWidth;
    TPipe pipe;
    TQue<TPosition::A1, 2> leftL1;
    TQue<TPosition::B1, 2> rightL1;
    TQue<TPosition::A2, 2> leftL0;
    TQue<TPosition::B2, 2> rightL0;
    TQue<TPosition::CO1, 1> sums;
    TQue<TPosition::VECIN, 2> inputs;
    TQue<TPosition::VECOUT, 2> outputs;
    TBuf<TPosition::VECCALC> scratch;
    GlobalTensor<T> xGlobal;
    GlobalTensor<T> weightGlobal;
    GlobalTensor<T> yGlobal;
    GlobalTensor<int64_t> endsGlobal;
    GlobalTensor<float> slots;
};

} // namespace

#define ENTRY(name, type)                                                                                              \
    extern "C" __global__ __aicore__ void grouped_matmul_##name(GM_ADDR x, GM_ADDR weight, GM_ADDR ends, GM_ADDR y,     \
                                                                GM_ADDR workspace, GM_ADDR tiling)                      \
    {                                                                                                                  \
        KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIC_ONLY);                                                                \
        GroupedMatmul<type, false> kernel(x, weight, ends, y, workspace, tiling);                                      \
        kernel.Process();                                                                                              \
    }
FOR_FLOATS(ENTRY)
#undef ENTRY

#define ENTRY(name, type)                                                                                              \
    extern "C" __global__ __aicore__ void grouped_matmul_swiglu_##name(GM_ADDR x, GM_ADDR weight, GM_ADDR ends,         \
                                                                       GM_ADDR y, GM_ADDR workspace, GM_ADDR tiling)    \
    {                                                                                                                  \
        KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);                                                             \
        GroupedMatmul<type, true> kernel(x, weight, ends, y, workspace, tiling);                                       \
        kernel.Process();                                                                                              \
    }
FOR_FLOATS(ENTRY)
#undef ENTRY
