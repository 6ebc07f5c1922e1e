// The residual stream and its norm: sum = x + residual, y = sum / sqrt(mean(sum²) + epsilon) * weight.
//
// A row that fits local memory is read once and written once, several short rows at a time. A wider one goes by in
// chunks, twice: the second time its sum is read back.
#include "../../../common/vector.h"
#include "add_rms_norm_tiling.h"

namespace {

using namespace npu;

template <typename T>
class AddRmsNorm {
public:
    __aicore__ inline AddRmsNorm(GM_ADDR x, GM_ADDR residual, GM_ADDR weight, GM_ADDR y, GM_ADDR sum, GM_ADDR tiling)
        : t(ReadTiling<AddRmsNormTiling>(tiling)), share(t.rows), padded(RoundUp(t.chunk, BLOCK_BYTES / sizeof(T)))
    {
        uint64_t elements = static_cast<uint64_t>(t.rows) * t.width;
        xGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(x), elements);
        residualGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(residual), elements);
        weightGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(weight), t.width);
        yGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(y), elements);
        sumGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(sum), elements);

        uint32_t tile = t.tile_rows * padded;
        pipe.InitBuffer(first, 2, RoundUp(tile * sizeof(T), 256));
        pipe.InitBuffer(second, 2, RoundUp(tile * sizeof(T), 256));
        pipe.InitBuffer(results, t.out_buffers, RoundUp(tile * sizeof(T), 256));
        pipe.InitBuffer(sums, t.out_buffers, RoundUp(tile * sizeof(T), 256));
        pipe.InitBuffer(valueBuffer, RoundUp(tile * sizeof(float), 256));
        pipe.InitBuffer(squareBuffer, RoundUp(tile * sizeof(float), 256));
        pipe.InitBuffer(weightBuffer, RoundUp(padded * sizeof(float), 256));
        pipe.InitBuffer(workBuffer, SumWork(padded) * sizeof(float));
        pipe.InitBuffer(rowBuffer, 3 * ROWS_MOST * sizeof(float));
        pipe.InitBuffer(spreadBuffer, ROWS_MOST * BLOCK_BYTES);
    }

    __aicore__ inline void Process()
    {
        if (share.count == 0) {
            return;
        }
        if (t.chunk == t.width) {
            LoadWeight(0, t.width);
            for (uint32_t done = 0; done < share.count; done += t.tile_rows) {
                WholeRows(share.first + done, Smaller(t.tile_rows, share.count - done));
            }
        } else {
            for (uint32_t row = share.first; row < share.first + share.count; ++row) {
                SplitRow(row);
            }
        }
    }

private:
    // The tile holds no more rows than the host's tiling says, which is no more than this.
    static constexpr uint32_t ROWS_MOST = 64;

    __aicore__ inline void Load(TQue<TPosition::VECIN, 2>& queue, const GlobalTensor<T>& from, uint64_t at, uint32_t rows,
                                uint32_t length)
    {
        LocalTensor<T> local = queue.AllocTensor<T>();
        CopyIn(local, from[at], rows, length);
        queue.EnQue(local);
    }

    __aicore__ inline void Store(TQue<TPosition::VECOUT, 2>& queue, const GlobalTensor<T>& to, uint64_t at, uint32_t rows,
                                 uint32_t length)
    {
        LocalTensor<T> local = queue.DeQue<T>();
        CopyOut(to[at], local, rows, length);
        queue.FreeTensor(local);
    }

    __aicore__ inline void LoadWeight(uint32_t at, uint32_t length)
    {
        Load(second, weightGlobal, at, 1, length);
        LocalTensor<T> local = second.DeQue<T>();
        Widen(weightBuffer.Get<float>(), local, RoundUp(length, BLOCK_BYTES / sizeof(T)));
        PipeBarrier<PIPE_V>();
        second.FreeTensor(local);
    }

    // The rounded sum of a tile of x and of the residual, in F32 in `valueBuffer` and on its way out; its squares.
    __aicore__ inline void AddTile(uint64_t at, uint32_t rows, uint32_t length)
    {
        Load(first, xGlobal, at, rows, length);
        Load(second, residualGlobal, at, rows, length);
        LocalTensor<float> values = valueBuffer.Get<float>();
        LocalTensor<float> squares = squareBuffer.Get<float>();
        uint32_t count = rows * RoundUp(length, BLOCK_BYTES / sizeof(T));
        LocalTensor<T> x = first.DeQue<T>();
        Widen(values, x, count);
        first.FreeTensor(x);
        LocalTensor<T> residual = second.DeQue<T>();
        Widen(squares, residual, count);
        second.FreeTensor(residual);
        PipeBarrier<PIPE_V>();
        Add(values, values, squares, static_cast<int32_t>(count));
        PipeBarrier<PIPE_V>();
        // Later layers see the rounded stream, and so does the norm.
        LocalTensor<T> sum = sums.AllocTensor<T>();
        Narrow(sum, values, count);
        PipeBarrier<PIPE_V>();
        if constexpr (!IsSameType<T, float>::value) {
            Widen(values, sum, count);
            PipeBarrier<PIPE_V>();
        }
        sums.EnQue(sum);
        Mul(squares, values, values, static_cast<int32_t>(count));
        PipeBarrier<PIPE_V>();
        Store(sums, sumGlobal, at, rows, length);
    }

    // From sums of squares in `rowBuffer` to a block of the reciprocal root for each row in `spreadBuffer`.
    __aicore__ inline void RootsOf(uint32_t rows)
    {
        LocalTensor<float> roots = rowBuffer.Get<float>();
        LocalTensor<float> ones = roots[ROWS_MOST];
        LocalTensor<float> reciprocals = roots[2 * ROWS_MOST];
        uint32_t count = RoundUp(rows, BLOCK_FLOATS);
        Muls(roots, roots, FloatOfBits(t.mean_bits), static_cast<int32_t>(count));
        Duplicate(ones, 1.0f, static_cast<int32_t>(count));
        PipeBarrier<PIPE_V>();
        Adds(roots, roots, FloatOfBits(t.epsilon_bits), static_cast<int32_t>(count));
        PipeBarrier<PIPE_V>();
        Sqrt(roots, roots, static_cast<int32_t>(count));
        PipeBarrier<PIPE_V>();
        // Rsqrt is an approximation on the card; a root and a division are rounded rightly.
        Div(reciprocals, ones, roots, static_cast<int32_t>(count));
        PipeBarrier<PIPE_V>();
        Brcb(spreadBuffer.Get<float>(), reciprocals, static_cast<uint8_t>(count / BLOCK_FLOATS), {1, 8});
        PipeBarrier<PIPE_V>();
    }

    __aicore__ inline void ClearRowSums()
    {
        Duplicate(rowBuffer.Get<float>(), 0.0f, static_cast<int32_t>(ROWS_MOST));
        PipeBarrier<PIPE_V>();
    }

    __aicore__ inline void WholeRows(uint32_t row, uint32_t rows)
    {
        uint64_t at = static_cast<uint64_t>(row) * t.width;
        AddTile(at, rows, t.width);
        ClearRowSums();
        LocalTensor<float> values = valueBuffer.Get<float>();
        LocalTensor<float> squares = squareBuffer.Get<float>();
        for (uint32_t r = 0; r < rows; ++r) {
            SumInto(rowBuffer.Get<float>()[r], squares[r * padded], workBuffer.Get<float>(), padded);
        }
        RootsOf(rows);
        for (uint32_t r = 0; r < rows; ++r) {
            ScaleBy(values[r * padded], spreadBuffer.Get<float>()[r * BLOCK_FLOATS], padded);
        }
        PipeBarrier<PIPE_V>();
        for (uint32_t r = 0; r < rows; ++r) {
            auto of_row = values[r * padded];
            Mul(of_row, of_row, weightBuffer.Get<float>(), static_cast<int32_t>(padded));
        }
        PipeBarrier<PIPE_V>();
        StoreResults(at, rows, t.width);
    }

    __aicore__ inline void StoreResults(uint64_t at, uint32_t rows, uint32_t length)
    {
        LocalTensor<T> y = results.AllocTensor<T>();
        Narrow(y, valueBuffer.Get<float>(), rows * RoundUp(length, BLOCK_BYTES / sizeof(T)));
        results.EnQue(y);
        Store(results, yGlobal, at, rows, length);
    }

    __aicore__ inline void SplitRow(uint32_t row)
    {
        uint64_t start = static_cast<uint64_t>(row) * t.width;
        ClearRowSums();
        // A sum of squares for each chunk, in the row buffer's second part, and their sum in its first element.
        LocalTensor<float> parts = rowBuffer.Get<float>()[ROWS_MOST];
        uint32_t chunks = 0;
        for (uint32_t column = 0; column < t.width; column += t.chunk, ++chunks) {
            uint32_t length = Smaller(t.chunk, t.width - column);
            AddTile(start + column, 1, length);
            SumInto(parts[chunks], squareBuffer.Get<float>(), workBuffer.Get<float>(),
                    RoundUp(length, BLOCK_BYTES / sizeof(T)));
        }
        SumInto(rowBuffer.Get<float>(), parts, workBuffer.Get<float>(), chunks);
        RootsOf(1);
        // What is read back must have been written.
        Await<HardEvent::MTE3_MTE2>();
        for (uint32_t column = 0; column < t.width; column += t.chunk) {
            uint32_t length = Smaller(t.chunk, t.width - column);
            uint32_t count = RoundUp(length, BLOCK_BYTES / sizeof(T));
            Load(first, sumGlobal, start + column, 1, length);
            LoadWeight(column, length);
            LocalTensor<float> values = valueBuffer.Get<float>();
            LocalTensor<T> sum = first.DeQue<T>();
            Widen(values, sum, count);
            PipeBarrier<PIPE_V>();
            first.FreeTensor(sum);
            ScaleBy(values, spreadBuffer.Get<float>(), count);
            PipeBarrier<PIPE_V>();
            Mul(values, values, weightBuffer.Get<float>(), static_cast<int32_t>(count));
            PipeBarrier<PIPE_V>();
            StoreResults(start + column, 1, length);
        }
    }

    AddRmsNormTiling t;
    Share share;
    uint32_t padded;
    TPipe pipe;
    TQue<TPosition::VECIN, 2> first, second;
    TQue<TPosition::VECOUT, 2> results, sums;
    TBuf<TPosition::VECCALC> valueBuffer, squareBuffer, weightBuffer, workBuffer, rowBuffer, spreadBuffer;
    GlobalTensor<T> xGlobal, residualGlobal, weightGlobal, yGlobal, sumGlobal;
};

} // namespace

#define ENTRY(NAME, TYPE)                                                                                             \
    extern "C" __global__ __aicore__ void add_rms_norm_##NAME(GM_ADDR x, GM_ADDR residual, GM_ADDR weight, GM_ADDR y,  \
                                                              GM_ADDR sum, GM_ADDR workspace, GM_ADDR tiling)          \
    {                                                                                                                 \
        KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);                                                               \
        AddRmsNorm<TYPE>(x, residual, weight, y, sum, tiling).Process();                                              \
    }

FOR_FLOATS(ENTRY)
