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
        : source(from), shape(flashShape), slots(workspace), core(static_cast<uint32_t>(GetSubBlockIdx())),
          chunk(ChunkRows(flashShape.value_width))
    {
        // Scores or mixed values; weights, or a result with two blocks a row beside it.
        pipe.InitBuffer(inputs, 2, chunk * Larger(KEYS, shape.value_width) * sizeof(float));
        uint32_t whole = (shape.value_width + 2 * BLOCK_FLOATS) * sizeof(float);
        pipe.InitBuffer(outputs, 1, chunk * Larger(KEYS * sizeof(T), whole));
        pipe.InitBuffer(resultBuffer, CORE_ROWS * shape.value_width * sizeof(float));
        pipe.InitBuffer(foldBuffer, chunk * KEYS / 2 * sizeof(float));
        pipe.InitBuffer(rowBuffer, ROW_VECTORS * CORE_ROWS * sizeof(float));
        pipe.InitBuffer(spreadBuffer, chunk * BLOCK_BYTES);
        pipe.InitBuffer(scaleBuffer, LANES * sizeof(float));
        Duplicate(Scale(), shape.scale, static_cast<int32_t>(LANES));
        Duplicate(OfRow(0), 0.0f, static_cast<int32_t>(ROW_VECTORS * CORE_ROWS));
        PipeBarrier<PIPE_V>();
    }

    __aicore__ inline void Process()
    {
        Step step;
        Step older;
        Step before;
        while (source.Next(step.task)) {
            if (step.task.keys == 0) {
                Settle(older);
                Settle(before);
                Nothing(step.task);
                continue;
            }
            step.order = (step.order + 1) % SLOTS;
            for (step.first = 0; step.first < step.task.keys; step.first += KEYS) {
                step.keys = Smaller(KEYS, step.task.keys - step.first);
                Weights(step);
                Settle(older);
                older = before;
                before = step;
                before.valid = true;
                ++step.index;
            }
        }
        Settle(older);
        Settle(before);
    }

private:
    // Vectors of a float a row: of the tasks under way the greatest score and the sum of weights, of the steps under way the
    // factor that takes older weights to the new maximum, and two for work.
    static constexpr uint32_t ROW_VECTORS = 3 * SLOTS + 2;

    __aicore__ inline LocalTensor<float> OfRow(uint32_t which) { return rowBuffer.Get<float>()[which * CORE_ROWS]; }
    __aicore__ inline LocalTensor<float> Greatest(uint32_t order) { return OfRow(order); }
    __aicore__ inline LocalTensor<float> Total(uint32_t order) { return OfRow(SLOTS + order); }
    __aicore__ inline LocalTensor<float> Factor(uint32_t slot) { return OfRow(2 * SLOTS + slot); }
    __aicore__ inline LocalTensor<float> Fresh() { return OfRow(3 * SLOTS); }
    __aicore__ inline LocalTensor<float> Work() { return OfRow(3 * SLOTS + 1); }
    __aicore__ inline LocalTensor<float> Spread() { return spreadBuffer.Get<float>(); }
    __aicore__ inline LocalTensor<float> Scale() { return scaleBuffer.Get<float>(); }

    __aicore__ inline uint32_t FirstRow(const Task& task) { return core * CeilDiv(task.rows, 2); }
    __aicore__ inline uint32_t RowCount(const Task& task)
    {
        uint32_t half = CeilDiv(task.rows, 2);
        return core == 0 ? half : task.rows - half;
    }

    __aicore__ inline void Weights(const Step& step)
    {
        if (step.first == 0) {
            Duplicate(Greatest(step.order), HIDDEN, static_cast<int32_t>(CORE_ROWS));
            Duplicate(Total(step.order), 0.0f, static_cast<int32_t>(CORE_ROWS));
            PipeBarrier<PIPE_V>();
        }
        CrossCoreWaitFlag(SCORES_THERE);
        uint32_t count = RowCount(step.task);
        for (uint32_t row = 0; row < count; row += chunk) {
            WeightsOf(step, row, Smaller(chunk, count - row));
        }
        CrossCoreSetFlag<2, PIPE_MTE3>(WEIGHTS_THERE);
    }

    // Scores of `rows` rows from `row` of this core's, to weights.
    __aicore__ inline void WeightsOf(const Step& step, uint32_t row, uint32_t rows)
    {
        uint32_t width = RoundUp(step.keys, LANES);
        uint32_t at = (FirstRow(step.task) + row) * KEYS;
        LocalTensor<float> s = inputs.template AllocTensor<float>();
        DataCopyParams runs{static_cast<uint16_t>(rows), static_cast<uint16_t>(width / BLOCK_FLOATS),
                            static_cast<uint16_t>((KEYS - width) / BLOCK_FLOATS), 0};
        DataCopy(s, slots.scores[step.ScoreSlot() * Slots<T>::SCORES + at], runs);
        inputs.EnQue(s);
        s = inputs.template DeQue<float>();
        Hide(step, s, row, rows, width);

        Fold<true>(Work(), s, rows, width);
        NewGreatest(Greatest(step.order)[row], Factor(step.Slot())[row], rows);
        // exp(score * scale - greatest), product and sum in one pass.
        BinaryRepeatParams shift{1, 1, 0, static_cast<uint8_t>(width / BLOCK_FLOATS), 0, 1};
        for (uint32_t column = 0; column < width; column += LANES) {
            FusedMulAdd(s[column], Scale(), Spread(), static_cast<uint64_t>(LANES), static_cast<uint8_t>(rows), shift);
        }
        PipeBarrier<PIPE_V>();
        Exp(s, s, static_cast<int32_t>(rows * width));
        PipeBarrier<PIPE_V>();
        LocalTensor<T> p = outputs.template AllocTensor<T>();
        Cast(p, s, RoundMode::CAST_RINT, rows * width);
        outputs.EnQue(p);
        Fold<false>(Work(), s, rows, width);
        inputs.FreeTensor(s);
        LocalTensor<float> total = Total(step.order)[row];
        Mul(total, total, Factor(step.Slot())[row], static_cast<int32_t>(rows));
        PipeBarrier<PIPE_V>();
        Add(total, total, Work(), static_cast<int32_t>(rows));
        PipeBarrier<PIPE_V>();

        p = outputs.template DeQue<T>();
        constexpr uint32_t BLOCK = BLOCK_BYTES / sizeof(T);
        DataCopyParams back{static_cast<uint16_t>(rows), static_cast<uint16_t>(width / BLOCK), 0,
                            static_cast<uint16_t>((KEYS - width) / BLOCK)};
        DataCopy(slots.weights[step.Slot() * Slots<T>::SCORES + at], p, back);
        outputs.FreeTensor(p);
    }

    // From the greatest scores of a chunk in `Work` to the greatest so far, the factor for what is older, and a block of
    // the negative greatest for each row in `Spread`.
    __aicore__ inline void NewGreatest(const LocalTensor<float>& greatest, const LocalTensor<float>& factor, uint32_t rows)
    {
        int32_t n = static_cast<int32_t>(rows);
        Muls(Work(), Work(), shape.scale, n);
        PipeBarrier<PIPE_V>();
        Max(Fresh(), greatest, Work(), n);
        PipeBarrier<PIPE_V>();
        Sub(factor, greatest, Fresh(), n);
        Muls(Work(), Fresh(), -1.0f, n);
        PipeBarrier<PIPE_V>();
        Exp(factor, factor, n);
        Adds(greatest, Fresh(), 0.0f, n);
        SpreadRows(Work(), rows);
    }

    __aicore__ inline void SpreadRows(const LocalTensor<float>& values, uint32_t rows)
    {
        Brcb(Spread(), values, static_cast<uint8_t>(CeilDiv(rows, BLOCK_FLOATS)), {1, 8});
        PipeBarrier<PIPE_V>();
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

    template <bool GREATEST>
    __aicore__ inline void Combine(const LocalTensor<float>& to, const LocalTensor<float>& a, const LocalTensor<float>& b,
                                   uint32_t rows, const BinaryRepeatParams& steps)
    {
        if constexpr (GREATEST) {
            Max(to, a, b, static_cast<uint64_t>(LANES), static_cast<uint8_t>(rows), steps);
        } else {
            Add(to, a, b, static_cast<uint64_t>(LANES), static_cast<uint8_t>(rows), steps);
        }
    }

    // The greatest or the sum of each of `rows` rows of `width`: halves are folded onto each other until 64 columns are
    // left.
    template <bool GREATEST>
    __aicore__ inline void Fold(const LocalTensor<float>& to, const LocalTensor<float>& s, uint32_t rows, uint32_t width)
    {
        LocalTensor<float> from = s;
        LocalTensor<float> work = foldBuffer.Get<float>();
        uint32_t lanes = width / LANES;
        uint8_t step = static_cast<uint8_t>(width / BLOCK_FLOATS);
        if (lanes > 1) {
            uint32_t half = CeilDiv(lanes, 2);
            uint8_t folded = static_cast<uint8_t>(half * LANES / BLOCK_FLOATS);
            for (uint32_t lane = 0; lane < lanes - half; ++lane) {
                Combine<GREATEST>(work[lane * LANES], s[lane * LANES], s[(lane + half) * LANES], rows,
                                  {1, 1, 1, folded, step, step});
            }
            if (lanes % 2 != 0) {
                Adds(work[(half - 1) * LANES], s[(half - 1) * LANES], 0.0f, static_cast<uint64_t>(LANES),
                     static_cast<uint8_t>(rows), {1, 1, folded, step});
            }
            PipeBarrier<PIPE_V>();
            from = work;
            step = folded;
            lanes = half;
        }
        while (lanes > 1) {
            uint32_t half = CeilDiv(lanes, 2);
            for (uint32_t lane = 0; lane < lanes - half; ++lane) {
                Combine<GREATEST>(work[lane * LANES], work[lane * LANES], work[(lane + half) * LANES], rows,
                                  {1, 1, 1, step, step, step});
            }
            PipeBarrier<PIPE_V>();
            lanes = half;
        }
        int32_t mask = static_cast<int32_t>(LANES);
        if constexpr (GREATEST) {
            WholeReduceMax(to, from, mask, static_cast<int32_t>(rows), 1, 1, step, ReduceOrder::ORDER_ONLY_VALUE);
        } else {
            WholeReduceSum(to, from, mask, static_cast<int32_t>(rows), 1, 1, step);
        }
        PipeBarrier<PIPE_V>();
    }

    // Adds the mixed values of the step before, and hands the result over after a task's last step.
    __aicore__ inline void Settle(Step& step)
    {
        if (!step.valid) {
            return;
        }
        step.valid = false;
        CrossCoreWaitFlag(MIXED_THERE);
        bool last = step.first + step.keys == step.task.keys;
        uint32_t count = RowCount(step.task);
        for (uint32_t row = 0; row < count; row += chunk) {
            uint32_t rows = Smaller(chunk, count - row);
            AddMixed(step, row, rows);
            if (last) {
                Divide(step, row, rows);
                source.Finish(outputs, step.task, FirstRow(step.task) + row, rows, Result(row), Greatest(step.order)[row],
                              Total(step.order)[row]);
            }
        }
    }

    __aicore__ inline LocalTensor<float> Result(uint32_t row) { return resultBuffer.Get<float>()[row * shape.value_width]; }

    __aicore__ inline void AddMixed(const Step& step, uint32_t row, uint32_t rows)
    {
        uint32_t width = shape.value_width;
        uint32_t first = step.Slot() * TASK_ROWS * width + (FirstRow(step.task) + row) * width;
        LocalTensor<float> mixed = inputs.template AllocTensor<float>();
        DataCopy(mixed, slots.mixed[first], rows * width);
        inputs.EnQue(mixed);
        mixed = inputs.template DeQue<float>();
        LocalTensor<float> result = Result(row);
        if (step.first == 0) {
            Adds(result, mixed, 0.0f, static_cast<int32_t>(rows * width));
        } else {
            SpreadRows(Factor(step.Slot())[row], rows);
            uint8_t pitch = static_cast<uint8_t>(width / BLOCK_FLOATS);
            BinaryRepeatParams steps{1, 0, 1, pitch, 1, pitch};
            for (uint32_t column = 0; column < width; column += LANES) {
                FusedMulAdd(result[column], Spread(), mixed[column], static_cast<uint64_t>(Smaller(LANES, width - column)),
                            static_cast<uint8_t>(rows), steps);
            }
        }
        PipeBarrier<PIPE_V>();
        inputs.FreeTensor(mixed);
    }

    // By the sum of weights. Rows that see no key are zero.
    __aicore__ inline void Divide(const Step& step, uint32_t row, uint32_t rows)
    {
        uint32_t width = shape.value_width;
        LocalTensor<float> result = Result(row);
        SpreadRows(Total(step.order)[row], rows);
        uint8_t pitch = static_cast<uint8_t>(width / BLOCK_FLOATS);
        BinaryRepeatParams steps{1, 1, 0, pitch, pitch, 1};
        for (uint32_t column = 0; column < width; column += LANES) {
            Div(result[column], result[column], Spread(), static_cast<uint64_t>(Smaller(LANES, width - column)),
                static_cast<uint8_t>(rows), steps);
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
    }

    // The result of rows that see no key at all.
    __aicore__ inline void Nothing(const Task& task)
    {
        uint32_t count = RowCount(task);
        for (uint32_t row = 0; row < count; row += chunk) {
            uint32_t rows = Smaller(chunk, count - row);
            Duplicate(Result(row), 0.0f, static_cast<int32_t>(rows * shape.value_width));
            Duplicate(Greatest(0)[row], HIDDEN, static_cast<int32_t>(rows));
            Duplicate(Total(0)[row], 0.0f, static_cast<int32_t>(rows));
            PipeBarrier<PIPE_V>();
            source.Finish(outputs, task, FirstRow(task) + row, rows, Result(row), Greatest(0)[row], Total(0)[row]);
        }
    }

    Source& source;
    FlashShape shape;
    Slots<T> slots;
    uint32_t core;
    uint32_t chunk;
    TQue<TPosition::VECIN, 2> inputs;
    ResultQueue outputs;
    TBuf<TPosition::VECCALC> resultBuffer;
    TBuf<TPosition::VECCALC> foldBuffer;
    TBuf<TPosition::VECCALC> rowBuffer;
    TBuf<TPosition::VECCALC> spreadBuffer;
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
