// Attention by blocks, with the softmax taken online (arXiv 2205.14135), over one cube core and two vector cores a block.
//
// The cube core multiplies a tile of up to 128 query rows with `KEYS` keys and leaves the scores in a slot of the
// workspace; the vector cores, half of the rows each, turn them into weights relative to the greatest score so far; the
// cube multiplies those with the values; the vector cores add that to what they have, scaled to the new maximum. The cube
// is three steps ahead with scores and the vector cores two with weights, so that neither kind of core waits for the
// other's latency; the cube takes both products by turns, so that scores leave L0C while values are mixed. Three flags are
// enough: before the scores of step t + 3 the cube has waited for the weights of t - 1, whose scores lie in the slot that it
// takes; before the weights of t + 3 the vector cores have waited for the mixed values of t, and have added them.
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
// Keys of a step, and those that the cube has at hand; half of them where they are wider than `WIDE`, with one tile of
// queries instead of two.
constexpr uint32_t KEYS = 384;
constexpr uint32_t KEYS_AT_HAND = 128;
constexpr uint32_t WIDE = 256;
// Steps under way: slots of weights and of mixed values; there is one more of scores.
constexpr uint32_t SLOTS = 3;
// Columns of the result that add up in L0C at a time, and elements of a row in L0.
constexpr uint32_t COLUMNS = 128;
constexpr uint32_t DEPTH = 128;

constexpr uint16_t SCORES_THERE = 0;
constexpr uint16_t WEIGHTS_THERE = 1;
constexpr uint16_t MIXED_THERE = 2;

struct Step {
    Task task;
    uint32_t first = 0; // key
    uint32_t keys = 0;
    uint32_t index = 0;  // among the block's steps
    uint32_t order = 0; // of the task, among three
    bool valid = false;

    // Where its weights and mixed values lie, and its scores.
    __aicore__ inline uint32_t Slot() const { return index % SLOTS; }
    __aicore__ inline uint32_t ScoreSlot() const { return index % (SLOTS + 1); }
};

// A block's part of the workspace.
template <typename T>
struct Slots {
    GlobalTensor<float> scores;
    GlobalTensor<T> weights;
    GlobalTensor<float> mixed;

    static constexpr uint32_t SCORES = TASK_ROWS * KEYS;

    __aicore__ inline Slots(GM_ADDR workspace, uint32_t valueWidth)
    {
        uint32_t mixing = TASK_ROWS * valueWidth;
        uint64_t size = SCORES * ((SLOTS + 1) * sizeof(float) + SLOTS * sizeof(T)) + SLOTS * mixing * sizeof(float);
        GM_ADDR at = workspace + BlockOfCore() * size;
        scores.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(at), (SLOTS + 1) * SCORES);
        at += (SLOTS + 1) * SCORES * sizeof(float);
        weights.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(at), SLOTS * SCORES);
        at += SLOTS * SCORES * sizeof(T);
        mixed.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(at), SLOTS * mixing);
    }
};

template <typename T, typename Source>
class CubeSide {
public:
    __aicore__ inline CubeSide(TPipe& pipe, Source& from, const FlashShape& flashShape, const Slots<T>& workspace,
                               const GlobalTensor<T>& queries)
        : source(from), shape(flashShape), slots(workspace), query(queries),
          atHand(flashShape.width > WIDE ? KEYS_AT_HAND / 2 : KEYS_AT_HAND)
    {
        pipe.InitBuffer(queryL1, shape.width > WIDE ? 1 : 2, TASK_ROWS * shape.width * sizeof(T));
        pipe.InitBuffer(keysL1, 2, atHand * shape.width * sizeof(T));
        pipe.InitBuffer(weightsL1, 2, TASK_ROWS * KEYS_AT_HAND * sizeof(T));
        pipe.InitBuffer(valuesL1, 2, KEYS_AT_HAND * Smaller(COLUMNS, shape.value_width) * sizeof(T));
        pipe.InitBuffer(leftL0, 2, TASK_ROWS * DEPTH * sizeof(T));
        pipe.InitBuffer(rightL0, 2, COLUMNS * DEPTH * sizeof(T));
        pipe.InitBuffer(scores, 2, TASK_ROWS * KEYS_AT_HAND / 2 * sizeof(float));
        pipe.InitBuffer(mixed, 1, TASK_ROWS * COLUMNS * sizeof(float));
    }

    __aicore__ inline void Process()
    {
        Step step;
        Step waiting[SLOTS];
        while (source.Next(step.task)) {
            if (step.task.keys == 0) {
                continue;
            }
            LocalTensor<T> q = queryL1.template AllocTensor<T>();
            LoadNzLeft(q, query[step.task.query], step.task.rows, shape.width, step.task.pitch,
                       RoundUp(step.task.rows, FRACTAL_ROWS));
            queryL1.EnQue(q);
            q = queryL1.template DeQue<T>();
            for (step.first = 0; step.first < step.task.keys; step.first += KEYS) {
                step.keys = Smaller(KEYS, step.task.keys - step.first);
                step.valid = true;
                Pair(q, step, waiting[0]);
                for (uint32_t i = 1; i < SLOTS; ++i) {
                    waiting[i - 1] = waiting[i];
                }
                waiting[SLOTS - 1] = step;
                ++step.index;
            }
            queryL1.FreeTensor(q);
        }
        step.valid = false;
        LocalTensor<T> none;
        for (uint32_t i = 0; i < SLOTS; ++i) {
            Pair(none, step, waiting[i]);
        }
    }

private:
    // The scores of one step and the mixed values of an older one, as far as there are such steps.
    __aicore__ inline void Pair(const LocalTensor<T>& q, const Step& fresh, const Step& old)
    {
        if (old.valid) {
            CrossCoreWaitFlag(WEIGHTS_THERE);
        }
        uint32_t scored = 0;
        for (uint32_t column = 0; old.valid && column < shape.value_width; column += COLUMNS) {
            uint32_t columns = Smaller(COLUMNS, shape.value_width - column);
            // Two turns of scores first: meanwhile the sum before leaves L0C.
            for (uint32_t turn = 0; turn < 2 && fresh.valid && scored < fresh.keys; ++turn) {
                scored = Scores(q, fresh, scored);
            }
            LocalTensor<float> sum = mixed.template AllocTensor<float>();
            for (uint32_t at = 0; at < old.keys; at += KEYS_AT_HAND) {
                Mix(sum, old, at, column, columns);
                if (fresh.valid && scored < fresh.keys) {
                    scored = Scores(q, fresh, scored);
                }
            }
            mixed.EnQue(sum);
            sum = mixed.template DeQue<float>();
            uint32_t rows = old.task.rows;
            StoreSum(slots.mixed[old.Slot() * TASK_ROWS * shape.value_width + column], sum, rows, columns,
                     RoundUp(rows, FRACTAL_ROWS), shape.value_width);
            mixed.FreeTensor(sum);
        }
        if (fresh.valid) {
            while (scored < fresh.keys) {
                scored = Scores(q, fresh, scored);
            }
            CrossCoreSetFlag<2, PIPE_FIX>(SCORES_THERE);
        }
        if (old.valid) {
            CrossCoreSetFlag<2, PIPE_FIX>(MIXED_THERE);
        }
    }

    // The scores of the keys at hand from `at` on; where they end.
    __aicore__ inline uint32_t Scores(const LocalTensor<T>& q, const Step& step, uint32_t at)
    {
        uint32_t rows = step.task.rows;
        uint32_t tallRows = RoundUp(rows, FRACTAL_ROWS);
        uint32_t keys = Smaller(atHand, step.keys - at);
        uint32_t tallKeys = RoundUp(keys, FRACTAL_ROWS);
        LocalTensor<T> k = keysL1.template AllocTensor<T>();
        source.LoadKeys(k, step.task, step.first + at, keys, tallKeys);
        keysL1.EnQue(k);
        k = keysL1.template DeQue<T>();
        // A sum takes half of the rows, or half of the keys.
        bool whole = rows <= TASK_ROWS / 2 || keys <= KEYS_AT_HAND / 2;
        uint32_t part = whole ? rows : RoundUp(CeilDiv(rows, 2), FRACTAL_ROWS);
        for (uint32_t row = 0; row < rows; row += part) {
            uint32_t count = Smaller(part, rows - row);
            uint32_t tall = RoundUp(count, FRACTAL_ROWS);
            LocalTensor<float> sum = scores.template AllocTensor<float>();
            for (uint32_t column = 0; column < shape.width; column += DEPTH) {
                uint32_t depth = Smaller(DEPTH, shape.width - column);
                LocalTensor<T> l = leftL0.template AllocTensor<T>();
                LoadLeft(l, q[row / FRACTAL_ROWS * FRACTAL<T>], tallRows, tall / FRACTAL_ROWS, column / C0<T>,
                         depth / C0<T>);
                leftL0.EnQue(l);
                LocalTensor<T> r = rightL0.template AllocTensor<T>();
                LoadRight(r, k, tallKeys, tallKeys / FRACTAL_ROWS, column / C0<T>, depth / C0<T>);
                rightL0.EnQue(r);
                AddProduct(sum, RowsOf(count), keys, depth, column == 0);
            }
            scores.EnQue(sum);
            sum = scores.template DeQue<float>();
            StoreSum(slots.scores[step.ScoreSlot() * Slots<T>::SCORES + row * KEYS + at], sum, count, keys, tall, KEYS);
            scores.FreeTensor(sum);
        }
        keysL1.FreeTensor(k);
        return at + keys;
    }

    // Adds the values of the keys from `at` on, by their weights.
    __aicore__ inline void Mix(const LocalTensor<float>& sum, const Step& step, uint32_t at, uint32_t column,
                               uint32_t columns)
    {
        uint32_t rows = step.task.rows;
        uint32_t tallRows = RoundUp(rows, FRACTAL_ROWS);
        uint32_t keys = Smaller(KEYS_AT_HAND, step.keys - at);
        uint32_t tallKeys = RoundUp(keys, FRACTAL_ROWS);
        LocalTensor<T> p = weightsL1.template AllocTensor<T>();
        LoadNzLeft(p, slots.weights[step.Slot() * Slots<T>::SCORES + at], rows, keys, KEYS, tallRows);
        weightsL1.EnQue(p);
        LocalTensor<T> v = valuesL1.template AllocTensor<T>();
        source.LoadValues(v, step.task, step.first + at, keys, tallKeys, column, columns);
        valuesL1.EnQue(v);
        p = weightsL1.template DeQue<T>();
        LocalTensor<T> l = leftL0.template AllocTensor<T>();
        LoadLeft(l, p, tallRows, tallRows / FRACTAL_ROWS, 0, tallKeys / C0<T>);
        leftL0.EnQue(l);
        weightsL1.FreeTensor(p);
        v = valuesL1.template DeQue<T>();
        LocalTensor<T> r = rightL0.template AllocTensor<T>();
        LoadRightAcross(r, v, tallKeys, 0, tallKeys / FRACTAL_ROWS, 0, columns / C0<T>);
        rightL0.EnQue(r);
        valuesL1.FreeTensor(v);
        AddProduct(sum, RowsOf(rows), columns, keys, at == 0);
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

    Source& source;
    FlashShape shape;
    Slots<T> slots;
    GlobalTensor<T> query;
    uint32_t atHand;
    TQue<TPosition::A1, 2> queryL1;
    TQue<TPosition::B1, 2> keysL1;
    TQue<TPosition::A1, 2> weightsL1;
    TQue<TPosition::B1, 2> valuesL1;
    TQue<TPosition::A2, 2> leftL0;
    TQue<TPosition::B2, 2> rightL0;
    TQue<TPosition::CO1, 2> scores;
    TQue<TPosition::CO1, 1> mixed;
};

} // namespace npu
