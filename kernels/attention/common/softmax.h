// The vector cores' side of attention by blocks: weights from scores, and the result from mixed values. See flash.h.
#pragma once
#include "flash.h"

namespace npu {

// Rows that a vector core has of a task.
constexpr uint32_t CORE_ROWS = TASK_ROWS / 2;

// Rows that it takes at a time: as many as local memory has room for beside the result.
__aicore__ inline uint32_t ChunkRows(uint32_t valueWidth)
{
    return valueWidth <= 128 ? 32 : valueWidth <= 256 ? 16 : 8;
}

__aicore__ inline uint32_t Larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

// The score of a key that a row does not see: its weight is zero beside any other's.
constexpr float HIDDEN = -1.0e30f;

using ResultQueue = TQue<TPosition::VECOUT, 1>;

template <typename T, typename Source>
class VectorSide {
public:
    __aicore__ inline VectorSide(TPipe& pipe, Source& from, const FlashShape& flashShape, const Slots<T>& workspace)
        : source(from), shape(flashShape), slots(workspace), stepKeys(StepKeys(flashShape)),
          core(static_cast<uint32_t>(GetSubBlockIdx())), chunk(ChunkRows(flashShape.value_width))
    {
        pipe.InitBuffer(inputs, 2, chunk * stepKeys * sizeof(float));
        pipe.InitBuffer(mixes, 1, chunk * (shape.value_width + TOTALS) * sizeof(float));
        // Weights, or a result with two blocks a row beside it.
        uint32_t whole = (shape.value_width + 2 * BLOCK_FLOATS) * sizeof(float);
        pipe.InitBuffer(outputs, 1, chunk * Larger(stepKeys * sizeof(T), whole));
        pipe.InitBuffer(resultBuffer, CORE_ROWS * shape.value_width * sizeof(float));
        pipe.InitBuffer(totalBuffer, CORE_ROWS * BLOCK_BYTES);
        pipe.InitBuffer(foldBuffer, chunk * FOLDED * LANES * sizeof(float));
        pipe.InitBuffer(rowBuffer, ROW_VECTORS * CORE_ROWS * sizeof(float));
        pipe.InitBuffer(shiftBuffer, chunk * BLOCK_BYTES);
        pipe.InitBuffer(factorBuffer, chunk * BLOCK_BYTES);
        pipe.InitBuffer(scaleBuffer, LANES * sizeof(float));
        Duplicate(Scale(), shape.scale, static_cast<int32_t>(LANES));
        Duplicate(OfRow(0), 0.0f, static_cast<int32_t>(ROW_VECTORS * CORE_ROWS));
        PipeBarrier<PIPE_V>();
        if (core == 0) {
            WriteOnes();
        }
    }

    __aicore__ inline void Process()
    {
        Step step;
        Steps waiting;
        while (source.Next(step.task)) {
            if (step.task.keys == 0) {
                Drain(waiting);
                Nothing(step.task);
                continue;
            }
            step.order = (step.order + 1) % (SLOTS + 1);
            for (step.first = 0; step.first < step.task.keys; step.first += stepKeys) {
                step.keys = Smaller(stepKeys, step.task.keys - step.first);
                step.valid = true;
                Turn(step, waiting.at[0]);
                waiting.Push(step);
                ++step.index;
            }
        }
        Drain(waiting);
    }

private:
    // Vectors of a float a row: of the tasks under way the negative of the greatest score, scaled; of the steps under way
    // the factor that takes older weights to the new maximum; and one for work.
    static constexpr uint32_t ROW_VECTORS = 2 * (SLOTS + 1) + 1;
    // Columns of 64 that scores are folded to first.
    static constexpr uint32_t FOLDED = 2;

    __aicore__ inline LocalTensor<float> OfRow(uint32_t which) { return rowBuffer.Get<float>()[which * CORE_ROWS]; }
    __aicore__ inline LocalTensor<float> Shift(const Step& step) { return OfRow(step.order); }
    __aicore__ inline LocalTensor<float> Factor(const Step& step) { return OfRow(SLOTS + 1 + step.ScoreSlot()); }
    __aicore__ inline LocalTensor<float> Work() { return OfRow(2 * (SLOTS + 1)); }
    // A block a row of a chunk.
    __aicore__ inline LocalTensor<float> Shifts() { return shiftBuffer.Get<float>(); }
    __aicore__ inline LocalTensor<float> Factors() { return factorBuffer.Get<float>(); }
    __aicore__ inline LocalTensor<float> Scale() { return scaleBuffer.Get<float>(); }
    __aicore__ inline LocalTensor<float> Result(uint32_t row) { return resultBuffer.Get<float>()[row * shape.value_width]; }
    // A block a row.
    __aicore__ inline LocalTensor<float> Total(uint32_t row) { return totalBuffer.Get<float>()[row * TOTALS]; }

    __aicore__ inline uint32_t FirstRow(const Task& task) { return core * CeilDiv(task.rows, 2); }
    __aicore__ inline uint32_t RowCount(const Task& task)
    {
        uint32_t half = CeilDiv(task.rows, 2);
        return core == 0 ? half : task.rows - half;
    }

    // The fractal of ones that the cube has beside the values.
    __aicore__ inline void WriteOnes()
    {
        LocalTensor<float> ones = foldBuffer.Get<float>();
        Duplicate(ones, 1.0f, static_cast<int32_t>(FRACTAL<T>));
        PipeBarrier<PIPE_V>();
        LocalTensor<T> out = outputs.template AllocTensor<T>();
        Cast(out, ones, RoundMode::CAST_RINT, FRACTAL<T>);
        outputs.EnQue(out);
        out = outputs.template DeQue<T>();
        DataCopy(slots.ones, out, FRACTAL<T>);
        outputs.FreeTensor(out);
    }

    // The weights of one step, and the mixed values of an older one to its result, as far as there are such steps.
    __aicore__ inline void Turn(const Step& fresh, const Step& old)
    {
        uint32_t count = 0;
        uint32_t mixed = 0;
        bool last = old.first + old.keys == old.task.keys;
        if (fresh.valid) {
            CrossCoreWaitFlag(SCORES_THERE);
            count = RowCount(fresh.task);
        }
        if (old.valid) {
            CrossCoreWaitFlag(MIXED_THERE);
            mixed = RowCount(old.task);
        }
        for (uint32_t row = 0; row < Larger(count, mixed); row += chunk) {
            uint32_t rows = row < count ? Smaller(chunk, count - row) : 0;
            uint32_t mixedRows = row < mixed ? Smaller(chunk, mixed - row) : 0;
            if (mixedRows != 0) {
                AddMixed(old, row, mixedRows);
            }
            LocalTensor<float> s;
            if (rows != 0) {
                s = Rank(fresh, row, rows);
            }
            // Here the weights before have left, and these need their place last.
            if (mixedRows != 0 && last) {
                Conclude(old, row, mixedRows);
            }
            if (rows != 0) {
                Weigh(fresh, s, row, rows);
            }
        }
        if (fresh.valid) {
            // The flag also says that mixed values were read, whose slot the cube takes next.
            Await<HardEvent::MTE2_MTE3>();
            CrossCoreSetFlag<2, PIPE_MTE3>(WEIGHTS_THERE);
        }
    }

    __aicore__ inline void Drain(Steps& waiting)
    {
        Step none;
        for (uint32_t i = 0; i < SLOTS; ++i) {
            Turn(none, waiting.at[0]);
            waiting.Push(none);
        }
    }

    // Brings the scores of `rows` rows from `row` of this core's, and their greatest: what takes scores below zero goes to
    // `Shifts`, a block a row, and the factor for what is older to `Factor`.
    __aicore__ inline LocalTensor<float> Rank(const Step& step, uint32_t row, uint32_t rows)
    {
        uint32_t width = RoundUp(step.keys, LANES);
        LocalTensor<float> s = inputs.template AllocTensor<float>();
        DataCopyParams runs{static_cast<uint16_t>(rows), static_cast<uint16_t>(width / BLOCK_FLOATS),
                            static_cast<uint16_t>((KEYS - width) / BLOCK_FLOATS), 0};
        DataCopy(s, slots.scores[step.ScoreSlot() * Slots<T>::SCORES + (FirstRow(step.task) + row) * KEYS], runs);
        inputs.EnQue(s);
        s = inputs.template DeQue<float>();
        Hide(step, s, row, rows, width);
        Fold(Work(), s, rows, width);

        LocalTensor<float> shift = Shift(step)[row];
        LocalTensor<float> factor = Factor(step)[row];
        int32_t n = static_cast<int32_t>(rows);
        if (step.first == 0) {
            Duplicate(shift, -HIDDEN, n);
        }
        Muls(Work(), Work(), -shape.scale, n);
        PipeBarrier<PIPE_V>();
        Min(Work(), Work(), shift, n);
        PipeBarrier<PIPE_V>();
        Sub(factor, Work(), shift, n);
        SpreadRows(Shifts(), Work(), rows);
        PipeBarrier<PIPE_V>();
        Adds(shift, Work(), 0.0f, n);
        Exp(factor, factor, n);
        return s;
    }

    // Scores to weights, exp(score * scale - greatest).
    __aicore__ inline void Weigh(const Step& step, LocalTensor<float>& s, uint32_t row, uint32_t rows)
    {
        uint32_t width = RoundUp(step.keys, LANES);
        BinaryRepeatParams steps{1, 1, 0, static_cast<uint8_t>(width / BLOCK_FLOATS), 0, 1};
        for (uint32_t column = 0; column < width; column += LANES) {
            FusedMulAdd(s[column], Scale(), Shifts(), static_cast<uint64_t>(LANES), static_cast<uint8_t>(rows), steps);
        }
        PipeBarrier<PIPE_V>();
        Exp(s, s, static_cast<int32_t>(rows * width));
        PipeBarrier<PIPE_V>();
        LocalTensor<T> p = outputs.template AllocTensor<T>();
        Cast(p, s, RoundMode::CAST_RINT, rows * width);
        outputs.EnQue(p);
        inputs.FreeTensor(s);
        p = outputs.template DeQue<T>();
        constexpr uint32_t BLOCK = BLOCK_BYTES / sizeof(T);
        DataCopyParams back{static_cast<uint16_t>(rows), static_cast<uint16_t>(width / BLOCK), 0,
                            static_cast<uint16_t>((KEYS - width) / BLOCK)};
        DataCopy(slots.weights[step.Slot() * Slots<T>::SCORES + (FirstRow(step.task) + row) * KEYS], p, back);
        outputs.FreeTensor(p);
    }

    __aicore__ inline void SpreadRows(const LocalTensor<float>& to, const LocalTensor<float>& values, uint32_t rows)
    {
        Brcb(to, values, static_cast<uint8_t>(CeilDiv(rows, BLOCK_FLOATS)), {1, 8});
    }

    // Hides what a row does not see, and what the cube left alone behind the last key.
    __aicore__ inline void Hide(const Step& step, const LocalTensor<float>& s, uint32_t row, uint32_t rows, uint32_t width)
    {
        uint32_t first = FirstRow(step.task) + row;
        if (Seen(step, first) == width) {
            return;
        }
        for (uint32_t r = 0; r < rows; ++r) {
            uint32_t seen = Seen(step, first + r);
            uint32_t edge = r * width + seen / LANES * LANES;
            uint32_t after = edge + LANES;
            if (seen == width) {
                continue;
            }
            uint64_t lanes[2] = {~0ull << seen % LANES, 0};
            Duplicate(s[edge], HIDDEN, lanes, 1, 1, 8);
            if (after < (r + 1) * width) {
                Duplicate(s[after], HIDDEN, static_cast<int32_t>((r + 1) * width - after));
            }
        }
        PipeBarrier<PIPE_V>();
    }

    // How many of a step's keys a row of the task sees; rows further down never see fewer.
    __aicore__ inline uint32_t Seen(const Step& step, uint32_t row)
    {
        int32_t seen = step.task.visible + static_cast<int32_t>(row) * step.task.advance - static_cast<int32_t>(step.first);
        return seen < 0 ? 0 : Smaller(static_cast<uint32_t>(seen), step.keys);
    }

    // The greatest of each of `rows` rows of `width`: columns of 64 are folded onto two, those onto one.
    __aicore__ inline void Fold(const LocalTensor<float>& to, const LocalTensor<float>& s, uint32_t rows, uint32_t width)
    {
        LocalTensor<float> from = s;
        uint32_t lanes = width / LANES;
        uint8_t step = static_cast<uint8_t>(width / BLOCK_FLOATS);
        if (lanes > 1) {
            constexpr uint8_t FOLD = FOLDED * LANES / BLOCK_FLOATS;
            from = foldBuffer.Get<float>();
            uint32_t columns = Smaller(FOLDED, lanes / 2);
            for (uint32_t i = 0; i < columns; ++i) {
                Greater(from[i * LANES], s[2 * i * LANES], s[(2 * i + 1) * LANES], rows, {1, 1, 1, FOLD, step, step});
            }
            PipeBarrier<PIPE_V>();
            for (uint32_t lane = 2 * columns; lane < lanes; lane += columns) {
                for (uint32_t i = 0; i < Smaller(columns, lanes - lane); ++i) {
                    Greater(from[i * LANES], from[i * LANES], s[(lane + i) * LANES], rows, {1, 1, 1, FOLD, FOLD, step});
                }
                PipeBarrier<PIPE_V>();
            }
            if (columns > 1) {
                Greater(from, from, from[LANES], rows, {1, 1, 1, FOLD, FOLD, FOLD});
                PipeBarrier<PIPE_V>();
            }
            step = FOLD;
        }
        WholeReduceMax(to, from, static_cast<int32_t>(LANES), static_cast<int32_t>(rows), 1, 1, step,
                       ReduceOrder::ORDER_ONLY_VALUE);
        PipeBarrier<PIPE_V>();
    }

    // Of 64 columns of `rows` rows.
    __aicore__ inline void Greater(const LocalTensor<float>& to, const LocalTensor<float>& a, const LocalTensor<float>& b,
                                   uint32_t rows, const BinaryRepeatParams& steps)
    {
        Max(to, a, b, static_cast<uint64_t>(LANES), static_cast<uint8_t>(rows), steps);
    }

    // Adds the mixed values of a step and their sums of weights to what there is, scaled.
    __aicore__ inline void AddMixed(const Step& step, uint32_t row, uint32_t rows)
    {
        uint32_t width = shape.value_width;
        uint32_t pitch = width + TOTALS;
        LocalTensor<float> mixed = mixes.template AllocTensor<float>();
        DataCopy(mixed, slots.mixed[(step.Slot() * TASK_ROWS + FirstRow(step.task) + row) * pitch], rows * pitch);
        mixes.EnQue(mixed);
        SpreadRows(Factors(), Factor(step)[row], rows);
        if (step.first == 0) {
            Duplicate(Result(row), 0.0f, static_cast<int32_t>(rows * width));
            Duplicate(Total(row), 0.0f, static_cast<int32_t>(rows * TOTALS));
        }
        PipeBarrier<PIPE_V>();
        mixed = mixes.template DeQue<float>();
        uint8_t far = static_cast<uint8_t>(width / BLOCK_FLOATS);
        uint8_t gap = static_cast<uint8_t>(pitch / BLOCK_FLOATS);
        for (uint32_t column = 0; column < width; column += LANES) {
            FusedMulAdd(Result(row)[column], Factors(), mixed[column], static_cast<uint64_t>(Smaller(LANES, width - column)),
                        static_cast<uint8_t>(rows), {1, 0, 1, far, 1, gap});
        }
        // The totals of eight rows at a time, a block each.
        for (uint32_t r = 0; r < rows; r += LANES / TOTALS) {
            uint64_t some = Smaller(LANES, (rows - r) * TOTALS);
            FusedMulAdd(Total(row + r), Factors()[r * TOTALS], mixed[r * pitch + width], some, 1, {1, 1, gap, 8, 8, 8});
        }
        mixes.FreeTensor(mixed);
    }

    // The result, by the sum of weights, after a task's last step. Rows that see no key are zero.
    __aicore__ inline void Conclude(const Step& step, uint32_t row, uint32_t rows)
    {
        uint32_t width = shape.value_width;
        LocalTensor<float> result = Result(row);
        int32_t blocks = static_cast<int32_t>(rows * TOTALS);
        Duplicate(Factors(), 1.0f, blocks);
        Muls(Work(), Shift(step)[row], -1.0f, static_cast<int32_t>(rows));
        PipeBarrier<PIPE_V>();
        Div(Factors(), Factors(), Total(row), blocks);
        PipeBarrier<PIPE_V>();
        uint8_t pitch = static_cast<uint8_t>(width / BLOCK_FLOATS);
        for (uint32_t column = 0; column < width; column += LANES) {
            Mul(result[column], result[column], Factors(), static_cast<uint64_t>(Smaller(LANES, width - column)),
                static_cast<uint8_t>(rows), {1, 1, 0, pitch, pitch, 1});
        }
        PipeBarrier<PIPE_V>();
        uint32_t first = FirstRow(step.task) + row;
        uint32_t blind = 0;
        while (blind < rows && step.task.visible + static_cast<int32_t>(first + blind) * step.task.advance <= 0) {
            ++blind;
        }
        if (blind != 0) {
            Duplicate(result, 0.0f, static_cast<int32_t>(blind * width));
            PipeBarrier<PIPE_V>();
        }
        source.Finish(outputs, step.task, first, rows, result, Work(), Total(row));
    }

    // The result of rows that see no key at all.
    __aicore__ inline void Nothing(const Task& task)
    {
        uint32_t count = RowCount(task);
        for (uint32_t row = 0; row < count; row += chunk) {
            uint32_t rows = Smaller(chunk, count - row);
            Duplicate(Result(row), 0.0f, static_cast<int32_t>(rows * shape.value_width));
            Duplicate(Work(), HIDDEN, static_cast<int32_t>(rows));
            Duplicate(Total(row), 0.0f, static_cast<int32_t>(rows * TOTALS));
            PipeBarrier<PIPE_V>();
            source.Finish(outputs, task, FirstRow(task) + row, rows, Result(row), Work(), Total(row));
        }
    }

    Source& source;
    FlashShape shape;
    Slots<T> slots;
    uint32_t stepKeys;
    uint32_t core;
    uint32_t chunk;
    TQue<TPosition::VECIN, 2> inputs;
    TQue<TPosition::VECIN, 1> mixes;
    ResultQueue outputs;
    TBuf<TPosition::VECCALC> resultBuffer;
    TBuf<TPosition::VECCALC> totalBuffer;
    TBuf<TPosition::VECCALC> foldBuffer;
    TBuf<TPosition::VECCALC> rowBuffer;
    TBuf<TPosition::VECCALC> shiftBuffer;
    TBuf<TPosition::VECCALC> factorBuffer;
    TBuf<TPosition::VECCALC> scaleBuffer;
};

// Runs a kernel's source on both kinds of core.
template <typename T, typename Source>
__aicore__ inline void Attend(TPipe& pipe, Source& source, const FlashShape& shape, const Slots<T>& slots,
                              const GlobalTensor<T>& query)
{
    if ASCEND_IS_AIC {
        CubeSide<T, Source> side(pipe, source, shape, slots, query);
        side.Process();
    }
    if ASCEND_IS_AIV {
        VectorSide<T, Source> side(pipe, source, shape, slots);
        side.Process();
    }
}

} // namespace npu
