// Attention by blocks, with the softmax taken online (arXiv 2205.14135), over one cube core and two vector cores a block.
//
// The cube core multiplies a tile of up to 128 query rows with a step's keys and leaves the scores in a slot of the
// workspace; the vector cores, half of the rows each, turn them into weights relative to the greatest score so far; the
// cube multiplies those with the values, and with a column of ones, which gives the sum of the weights; the vector cores
// add that to what they have, scaled to the new maximum.
//
// The cube is three steps ahead with scores, so that neither kind of core waits for the other's latency. Three flags are
// enough: before the scores of step t + 4 the cube has waited for the weights of t, whose scores lie in the slot that it
// takes; before the weights of t + 3 the vector cores have waited for the mixed values of t, and have added them.
//
// Both products leave L0C by the same way, which takes longer for scores than the cube does and is idle while values are
// mixed. So they are taken by turns, in sums small enough that several of them are on their way out.
//
// A `Source` says what is to be done and where keys lie: Next(Task&), LoadKeys, LoadValues, and Finish for the result.
#pragma once
#include "../../common/cube.h"

namespace npu {

// The part of a kernel's tiling that these classes need.
struct FlashShape {
    uint32_t width;       // of queries and keys
    uint32_t value_width; // of values and of the result
    float scale;          // positive
};

// Up to 128 rows that see the same keys, `keys` of them in order. Row r sees `visible + r * advance` of them (all of them
// where that is more; none where it is not above zero).
struct Task {
    uint32_t rows = 0;
    uint32_t keys = 0;
    int32_t visible = 0;
    int32_t advance = 0;
    uint64_t query = 0; // of the first row, in elements
    uint32_t pitch = 0; // from row to row
    // The source's own.
    uint64_t result = 0;
    uint64_t first_key = 0;
    uint64_t first_value = 0;
    uint32_t sequence = 0;
    uint32_t head = 0;
    uint32_t part = 0;
    bool whole = true;
};

constexpr uint32_t TASK_ROWS = 128;
// Keys of a step; half of them where keys or values are wider than `WIDE`, with one tile of queries in L1 instead of two.
constexpr uint32_t KEYS = 384;
constexpr uint32_t WIDE = 256;
// Keys in L1 at a time; half of them where they are wider than that.
constexpr uint32_t KEYS_AT_HAND = 128;
// Rows of a sum in L0C, keys of one product, and columns of values.
constexpr uint32_t SUM_ROWS = 64;
constexpr uint32_t SUM_KEYS = 64;
constexpr uint32_t COLUMNS = 128;
// Elements of a row of queries and keys in L0.
constexpr uint32_t DEPTH = 128;
// Behind the last columns of values there are ones, as many as a fractal is wide; of their sums a block is kept.
constexpr uint32_t ONES = FRACTAL_ROWS;
constexpr uint32_t TOTALS = BLOCK_FLOATS;
// Steps under way: slots of weights and of mixed values; there is one more of scores.
constexpr uint32_t SLOTS = 3;

constexpr uint16_t SCORES_THERE = 0;
constexpr uint16_t WEIGHTS_THERE = 1;
constexpr uint16_t MIXED_THERE = 2;

__aicore__ inline bool IsWide(const FlashShape& shape)
{
    return shape.width > WIDE || shape.value_width > WIDE;
}

// The most keys of a step.
__aicore__ inline uint32_t StepKeys(const FlashShape& shape)
{
    return IsWide(shape) ? KEYS / 2 : KEYS;
}

struct Step {
    Task task;
    uint32_t first = 0; // key
    uint32_t keys = 0;
    uint32_t index = 0;  // among the block's steps
    uint32_t order = 0; // of the task, among four
    bool valid = false;

    // Where its weights and mixed values lie, and its scores.
    __aicore__ inline uint32_t Slot() const { return index % SLOTS; }
    __aicore__ inline uint32_t ScoreSlot() const { return index % (SLOTS + 1); }
};

// The steps under way, oldest first.
struct Steps {
    Step at[SLOTS];

    __aicore__ inline void Push(const Step& step)
    {
        for (uint32_t i = 1; i < SLOTS; ++i) {
            at[i - 1] = at[i];
        }
        at[SLOTS - 1] = step;
    }
};

// A block's part of the workspace.
template <typename T>
struct Slots {
    GlobalTensor<float> scores;
    GlobalTensor<T> weights;
    GlobalTensor<float> mixed; // and their totals, a block a row
    GlobalTensor<T> ones;      // a fractal

    static constexpr uint32_t SCORES = TASK_ROWS * KEYS;

    __aicore__ inline Slots(GM_ADDR workspace, uint32_t valueWidth)
    {
        uint32_t mixing = TASK_ROWS * (valueWidth + TOTALS);
        uint64_t size = SCORES * ((SLOTS + 1) * sizeof(float) + SLOTS * sizeof(T)) + SLOTS * mixing * sizeof(float) +
                        FRACTAL_BYTES;
        GM_ADDR at = workspace + BlockOfCore() * size;
        scores.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(at), (SLOTS + 1) * SCORES);
        at += (SLOTS + 1) * SCORES * sizeof(float);
        weights.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(at), SLOTS * SCORES);
        at += SLOTS * SCORES * sizeof(T);
        mixed.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(at), SLOTS * mixing);
        at += SLOTS * mixing * sizeof(float);
        ones.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(at), FRACTAL<T>);
    }
};

template <typename T, typename Source>
class CubeSide {
public:
    __aicore__ inline CubeSide(TPipe& pipe, Source& from, const FlashShape& flashShape, const Slots<T>& workspace,
                               const GlobalTensor<T>& queries)
        : source(from), shape(flashShape), slots(workspace), query(queries), stepKeys(StepKeys(flashShape)),
          atHand(flashShape.width > KEYS_AT_HAND ? KEYS_AT_HAND / 2 : KEYS_AT_HAND)
    {
        uint32_t columns = Smaller(COLUMNS, shape.value_width);
        pipe.InitBuffer(queryL1, IsWide(shape) ? 1 : 2, TASK_ROWS * shape.width * sizeof(T));
        pipe.InitBuffer(keysL1, 2, atHand * shape.width * sizeof(T));
        pipe.InitBuffer(weightsL1, 2, SUM_ROWS * stepKeys * sizeof(T));
        pipe.InitBuffer(valuesL1, 2, stepKeys * columns * sizeof(T));
        pipe.InitBuffer(onesL1, FRACTAL_BYTES);
        pipe.InitBuffer(leftL0, 4, SUM_ROWS * DEPTH * sizeof(T));
        pipe.InitBuffer(rightL0, 3, SUM_KEYS * (COLUMNS + ONES) * sizeof(T));
        pipe.InitBuffer(scores, 3, SUM_ROWS * SUM_KEYS * sizeof(float));
        pipe.InitBuffer(mixed, 2, SUM_ROWS * (COLUMNS + ONES) * sizeof(float));
    }

    __aicore__ inline void Process()
    {
        Step step;
        Steps waiting;
        while (source.Next(step.task)) {
            if (step.task.keys == 0) {
                continue;
            }
            LocalTensor<T> q = queryL1.template AllocTensor<T>();
            LoadNzLeft(q, query[step.task.query], step.task.rows, shape.width, step.task.pitch,
                       RoundUp(step.task.rows, FRACTAL_ROWS));
            queryL1.EnQue(q);
            q = queryL1.template DeQue<T>();
            for (step.first = 0; step.first < step.task.keys; step.first += stepKeys) {
                step.keys = Smaller(stepKeys, step.task.keys - step.first);
                step.valid = true;
                Pair(q, step, waiting.at[0]);
                waiting.Push(step);
                ++step.index;
            }
            queryL1.FreeTensor(q);
        }
        step.valid = false;
        LocalTensor<T> none;
        for (uint32_t i = 0; i < SLOTS; ++i) {
            Pair(none, step, waiting.at[i]);
        }
    }

private:
    // The scores of one step and the mixed values of an older one, as far as there are such steps.
    __aicore__ inline void Pair(const LocalTensor<T>& q, const Step& fresh, const Step& old)
    {
        uint32_t sums = fresh.valid ? CeilDiv(fresh.keys, SUM_KEYS) * CeilDiv(fresh.task.rows, SumRows(fresh.task)) : 0;
        uint32_t scored = 0;
        if (old.valid) {
            LoadValues(old, 0);
            // While the weights are on their way.
            while (scored < Smaller(sums, LEAD)) {
                Scores(q, fresh, scored++);
            }
            CrossCoreWaitFlag(WEIGHTS_THERE);
            LoadOnes();
            Mix(q, fresh, sums, scored, old);
        }
        while (scored < sums) {
            Scores(q, fresh, scored++);
        }
        if (fresh.valid) {
            CrossCoreSetFlag<2, PIPE_FIX>(SCORES_THERE);
        }
        if (old.valid) {
            CrossCoreSetFlag<2, PIPE_FIX>(MIXED_THERE);
        }
    }

    // Rows of a task that are summed up at a time: all of them, or half.
    __aicore__ inline uint32_t SumRows(const Task& task)
    {
        return task.rows <= SUM_ROWS ? task.rows : RoundUp(CeilDiv(task.rows, 2), FRACTAL_ROWS);
    }

    // One of the sums that a step's scores are: rows of one part of the queries, for `SUM_KEYS` keys.
    __aicore__ inline void Scores(const LocalTensor<T>& q, const Step& step, uint32_t which)
    {
        uint32_t rows = step.task.rows;
        uint32_t part = SumRows(step.task);
        uint32_t row = which % CeilDiv(rows, part) * part;
        uint32_t key = which / CeilDiv(rows, part) * SUM_KEYS;
        uint32_t inHand = key % atHand;
        uint32_t tallKeys = RoundUp(Smaller(atHand, step.keys - (key - inHand)), FRACTAL_ROWS);
        if (row == 0 && inHand == 0) {
            LocalTensor<T> loaded = keysL1.template AllocTensor<T>();
            source.LoadKeys(loaded, step.task, step.first + key, Smaller(atHand, step.keys - key), tallKeys);
            keysL1.EnQue(loaded);
            keys = keysL1.template DeQue<T>();
        }
        uint32_t count = Smaller(part, rows - row);
        uint32_t tall = RoundUp(count, FRACTAL_ROWS);
        uint32_t columns = Smaller(SUM_KEYS, step.keys - key);
        LocalTensor<float> sum = scores.template AllocTensor<float>();
        for (uint32_t column = 0; column < shape.width; column += DEPTH) {
            uint32_t depth = Smaller(DEPTH, shape.width - column);
            LocalTensor<T> l = leftL0.template AllocTensor<T>();
            LoadLeft(l, q[row / FRACTAL_ROWS * FRACTAL<T>], RoundUp(rows, FRACTAL_ROWS), tall / FRACTAL_ROWS, column / C0<T>,
                     depth / C0<T>);
            leftL0.EnQue(l);
            LocalTensor<T> r = rightL0.template AllocTensor<T>();
            LoadRight(r, keys[inHand / FRACTAL_ROWS * FRACTAL<T>], tallKeys, CeilDiv(columns, FRACTAL_ROWS), column / C0<T>,
                      depth / C0<T>);
            rightL0.EnQue(r);
            AddProduct(sum, RowsOf(count), columns, depth, column == 0);
        }
        scores.EnQue(sum);
        sum = scores.template DeQue<float>();
        StoreSum(slots.scores[step.ScoreSlot() * Slots<T>::SCORES + row * KEYS + key], sum, count, columns, tall, KEYS);
        scores.FreeTensor(sum);
        if (row + part >= rows && (inHand + SUM_KEYS >= atHand || key + SUM_KEYS >= step.keys)) {
            keysL1.FreeTensor(keys);
        }
    }

    // The mixed values of a step, and meanwhile the rest of the `sums` of another's scores, of which some are done.
    __aicore__ inline void Mix(const LocalTensor<T>& q, const Step& fresh, uint32_t sums, uint32_t& scored, const Step& step)
    {
        uint32_t rows = step.task.rows;
        uint32_t part = SumRows(step.task);
        uint32_t products = CeilDiv(shape.value_width, COLUMNS) * CeilDiv(rows, part) * CeilDiv(step.keys, SUM_KEYS);
        uint32_t done = 0;
        uint32_t pitch = shape.value_width + TOTALS;
        for (uint32_t column = 0; column < shape.value_width; column += COLUMNS) {
            if (column != 0) {
                LoadValues(step, column);
            }
            for (uint32_t row = 0; row < rows; row += part) {
                LoadWeights(step, row, Smaller(part, rows - row));
            }
            LocalTensor<T> v = valuesL1.template DeQue<T>();
            uint32_t columns = Smaller(COLUMNS, shape.value_width - column);
            bool last = column + columns == shape.value_width;
            for (uint32_t row = 0; row < rows; row += part) {
                uint32_t count = Smaller(part, rows - row);
                LocalTensor<T> p = weightsL1.template DeQue<T>();
                LocalTensor<float> sum = mixed.template AllocTensor<float>();
                for (uint32_t at = 0; at < step.keys; at += SUM_KEYS) {
                    MixSome(sum, p, v, step, count, at, columns, last);
                    ++done;
                    while (scored < sums && scored * products < done * sums) {
                        Scores(q, fresh, scored++);
                    }
                }
                weightsL1.FreeTensor(p);
                mixed.EnQue(sum);
                sum = mixed.template DeQue<float>();
                StoreSum(slots.mixed[(step.Slot() * TASK_ROWS + row) * pitch + column], sum, count,
                         columns + (last ? TOTALS : 0), RoundUp(count, FRACTAL_ROWS), pitch);
                mixed.FreeTensor(sum);
            }
            valuesL1.FreeTensor(v);
        }
    }

    // Adds the values of the keys from `at` on, by their weights; `ones` behind them.
    __aicore__ inline void MixSome(const LocalTensor<float>& sum, const LocalTensor<T>& p, const LocalTensor<T>& v,
                                   const Step& step, uint32_t rows, uint32_t at, uint32_t columns, bool ones)
    {
        uint32_t tallRows = RoundUp(rows, FRACTAL_ROWS);
        uint32_t some = Smaller(SUM_KEYS, step.keys - at);
        uint32_t deep = CeilDiv(some, FRACTAL_ROWS);
        uint32_t across = columns / FRACTAL_ROWS + (ones ? 1 : 0);
        LocalTensor<T> l = leftL0.template AllocTensor<T>();
        LoadLeft(l, p, tallRows, tallRows / FRACTAL_ROWS, at / C0<T>, deep);
        leftL0.EnQue(l);
        LocalTensor<T> r = rightL0.template AllocTensor<T>();
        LoadRightAcross(r, v, RoundUp(step.keys, FRACTAL_ROWS), at / FRACTAL_ROWS, deep, columns / FRACTAL_ROWS, across);
        if (ones) {
            LoadRightAgain(r, onesL1.template Get<T>(), deep, across);
        }
        rightL0.EnQue(r);
        AddProduct(sum, RowsOf(rows), across * FRACTAL_ROWS, some, at == 0);
    }

    __aicore__ inline void LoadWeights(const Step& step, uint32_t row, uint32_t rows)
    {
        LocalTensor<T> p = weightsL1.template AllocTensor<T>();
        LoadNzLeft(p, slots.weights[step.Slot() * Slots<T>::SCORES + row * KEYS], rows, step.keys, KEYS,
                   RoundUp(rows, FRACTAL_ROWS));
        weightsL1.EnQue(p);
    }

    __aicore__ inline void LoadValues(const Step& step, uint32_t column)
    {
        LocalTensor<T> v = valuesL1.template AllocTensor<T>();
        source.LoadValues(v, step.task, step.first, step.keys, RoundUp(step.keys, FRACTAL_ROWS), column,
                          Smaller(COLUMNS, shape.value_width - column));
        valuesL1.EnQue(v);
    }

    // The vector cores have written the ones before their first weights.
    __aicore__ inline void LoadOnes()
    {
        if (!onesThere) {
            onesThere = true;
            DataCopy(onesL1.template Get<T>(), slots.ones, FRACTAL<T>);
            Await<HardEvent::MTE2_MTE1>();
        }
    }

    // The product of what was loaded last into L0.
    __aicore__ inline void AddProduct(const LocalTensor<float>& sum, uint32_t rows, uint32_t columns, uint32_t depth,
                                      bool first)
    {
        LocalTensor<T> l = leftL0.template DeQue<T>();
        LocalTensor<T> r = rightL0.template DeQue<T>();
        Multiply(sum, l, r, rows, columns, depth, first);
        leftL0.FreeTensor(l);
        rightL0.FreeTensor(r);
    }

    // Sums of scores before the first values are mixed.
    static constexpr uint32_t LEAD = 2;

    Source& source;
    FlashShape shape;
    Slots<T> slots;
    GlobalTensor<T> query;
    uint32_t stepKeys;
    uint32_t atHand;
    bool onesThere = false;
    LocalTensor<T> keys;
    TQue<TPosition::A1, 2> queryL1;
    TQue<TPosition::B1, 2> keysL1;
    TQue<TPosition::A1, 2> weightsL1;
    TQue<TPosition::B1, 2> valuesL1;
    TBuf<TPosition::B1> onesL1;
    TQue<TPosition::A2, 4> leftL0;
    TQue<TPosition::B2, 3> rightL0;
    TQue<TPosition::CO1, 3> scores;
    TQue<TPosition::CO1, 2> mixed;
};

} // namespace npu
