// One query a sequence (decode) over keys and values that lie in blocks of a pool, as a table says.
//
// A task is the heads of one sequence that share a key head, over one part of the sequence's keys: a long sequence is split
// so that all cores work on it. Parts leave their results in the workspace, each relative to its own greatest score; once
// all are there, the vector cores put them together.
#pragma once
#include "paged_tiling.h"
#include "softmax.h"

namespace npu {

// Floats of a part's result: rows, and for each a block of its greatest score and one of its sum of weights.
__aicore__ inline uint64_t PartFloats(const PagedTiling& t)
{
    return static_cast<uint64_t>(t.heads / t.key_heads) * (t.value_width + 2 * BLOCK_FLOATS);
}

template <typename T>
class Paged {
public:
    __aicore__ inline Paged(const PagedTiling& tiling, GM_ADDR k, GM_ADDR v, GM_ADDR tableAddress, GM_ADDR lengthsAddress,
                            GM_ADDR y, GM_ADDR workspace)
        : t(tiling), index(BlockOfCore())
    {
        keys.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(k));
        values.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(v));
        result.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(y));
        table.SetGlobalBuffer(reinterpret_cast<__gm__ uint32_t*>(tableAddress), static_cast<uint64_t>(t.batch) * t.table_width);
        lengths.SetGlobalBuffer(reinterpret_cast<__gm__ uint32_t*>(lengthsAddress), t.batch);
        partial.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(workspace + t.slot_bytes));
        Measure();
    }

    __aicore__ inline bool Next(Task& task)
    {
        while (index >= t.key_heads * parts) {
            index -= t.key_heads * parts;
            if (++sequence >= t.batch) {
                return false;
            }
            Measure();
        }
        uint32_t group = t.heads / t.key_heads;
        task.sequence = sequence;
        task.head = index / parts;
        task.part = index % parts;
        task.rows = group;
        task.query = static_cast<uint64_t>(sequence) * t.q_batch + static_cast<uint64_t>(task.head) * group * t.q_head;
        task.pitch = t.q_head;
        task.result = static_cast<uint64_t>(sequence) * t.y_batch + static_cast<uint64_t>(task.head) * group * t.y_head;
        task.first_key = static_cast<uint64_t>(task.part) * t.part_keys;
        task.keys = Smaller(t.part_keys, length - static_cast<uint32_t>(task.first_key));
        task.visible = static_cast<int32_t>(task.keys);
        task.advance = 0;
        // With one part the result is whole.
        task.whole = parts == 1;
        index += static_cast<uint32_t>(GetBlockNum());
        return true;
    }

    __aicore__ inline void LoadKeys(const LocalTensor<T>& to, const Task& task, uint32_t first, uint32_t count, uint32_t tall)
    {
        Load(to, keys, task, first, count, tall, t.k_block, task.head * t.k_head, t.k_row, t.width);
    }

    __aicore__ inline void LoadValues(const LocalTensor<T>& to, const Task& task, uint32_t first, uint32_t count,
                                      uint32_t tall, uint32_t column, uint32_t columns)
    {
        Load(to, values, task, first, count, tall, t.v_block, task.head * t.v_head + column, t.v_row, columns);
    }

    __aicore__ inline void Finish(ResultQueue& queue, const Task& task, uint32_t row, uint32_t rows,
                                  const LocalTensor<float>& from, const LocalTensor<float>& greatest,
                                  const LocalTensor<float>& totals)
    {
        if (!Sound(task)) {
            Duplicate(from, FloatOfBits(0x7fc00000u), static_cast<int32_t>(rows * t.value_width));
            PipeBarrier<PIPE_V>();
        }
        if (task.whole) {
            LocalTensor<T> out = queue.AllocTensor<T>();
            Cast(out, from, RoundMode::CAST_RINT, rows * t.value_width);
            queue.EnQue(out);
            out = queue.DeQue<T>();
            CopyOut(result[task.result + static_cast<uint64_t>(row) * t.y_head], out, rows, t.value_width,
                    t.y_head - t.value_width);
            queue.FreeTensor(out);
            return;
        }
        uint32_t size = rows * t.value_width;
        uint32_t blocks = RoundUp(rows, BLOCK_FLOATS) * BLOCK_FLOATS;
        LocalTensor<float> out = queue.AllocTensor<float>();
        Adds(out, from, 0.0f, static_cast<int32_t>(size));
        Brcb(out[size], greatest, static_cast<uint8_t>(CeilDiv(rows, BLOCK_FLOATS)), {1, 8});
        Adds(out[size + blocks], totals, 0.0f, static_cast<int32_t>(rows * TOTALS));
        queue.EnQue(out);
        out = queue.DeQue<float>();
        uint32_t group = t.heads / t.key_heads;
        GlobalTensor<float> part = partial[PartOf(task.sequence, task.head, task.part)];
        DataCopy(part[static_cast<uint64_t>(row) * t.value_width], out, size);
        GlobalTensor<float> marks = part[static_cast<uint64_t>(group) * t.value_width];
        DataCopy(marks[row * BLOCK_FLOATS], out[size], rows * BLOCK_FLOATS);
        DataCopy(marks[(group + row) * BLOCK_FLOATS], out[size + blocks], rows * BLOCK_FLOATS);
        queue.FreeTensor(out);
    }

    // Parts of a sequence of this many keys.
    __aicore__ inline uint32_t PartsOf(uint32_t keysOfIt) { return keysOfIt == 0 ? 1 : CeilDiv(keysOfIt, t.part_keys); }
    __aicore__ inline uint32_t LengthOf(uint32_t which) { return Smaller(lengths.GetValue(which), t.table_width * t.block_size); }
    __aicore__ inline uint64_t PartOf(uint32_t which, uint32_t head, uint32_t part)
    {
        return ((static_cast<uint64_t>(which) * t.key_heads + head) * t.parts + part) * PartFloats(t);
    }

    PagedTiling t;
    GlobalTensor<T> result;
    GlobalTensor<float> partial;

private:
    __aicore__ inline void Measure()
    {
        length = LengthOf(sequence);
        parts = PartsOf(length);
    }

    // The block of the pool in which a key lies. What the table says beyond the pool is not read: such a sequence's result is
    // no number (`Sound`).
    __aicore__ inline uint32_t Entry(const Task& task, uint32_t key)
    {
        return table.GetValue(static_cast<uint64_t>(task.sequence) * t.table_width + key / t.block_size);
    }

    __aicore__ inline bool Sound(const Task& task)
    {
        uint32_t first = static_cast<uint32_t>(task.first_key);
        for (uint32_t key = first / t.block_size * t.block_size; key < first + task.keys; key += t.block_size) {
            if (Entry(task, key) >= t.blocks) {
                return false;
            }
        }
        return true;
    }

    __aicore__ inline void Load(const LocalTensor<T>& to, const GlobalTensor<T>& pool, const Task& task, uint32_t first,
                                uint32_t count, uint32_t tall, uint32_t block, uint32_t offset, uint32_t pitch,
                                uint32_t columns)
    {
        uint32_t key = static_cast<uint32_t>(task.first_key) + first;
        for (uint32_t done = 0; done < count;) {
            uint32_t row = (key + done) % t.block_size;
            uint32_t rows = Smaller(count - done, t.block_size - row);
            uint32_t entry = Entry(task, key + done);
            uint64_t at = static_cast<uint64_t>(entry < t.blocks ? entry : 0) * block + offset;
            LoadNz(to[done * C0<T>], pool[at + static_cast<uint64_t>(row) * pitch], rows, columns, pitch, tall);
            done += rows;
        }
    }

    GlobalTensor<T> keys;
    GlobalTensor<T> values;
    GlobalTensor<uint32_t> table;
    GlobalTensor<uint32_t> lengths;
    uint32_t index;
    uint32_t sequence = 0;
    uint32_t length = 0;
    uint32_t parts = 1;
};

// Puts the parts of split sequences together, a row at a time.
template <typename T>
class Joiner {
public:
    __aicore__ inline Joiner(TPipe& pipe, Paged<T>& from) : source(from), t(from.t)
    {
        pipe.InitBuffer(inputs, 1, t.parts * t.value_width * sizeof(float));
        pipe.InitBuffer(marks, 1, 2 * t.parts * BLOCK_BYTES);
        pipe.InitBuffer(outputs, 1, t.value_width * sizeof(T));
        pipe.InitBuffer(scratch, 3 * BLOCK_BYTES);
    }

    __aicore__ inline void Process()
    {
        uint32_t index = static_cast<uint32_t>(GetBlockIdx());
        uint32_t cores = static_cast<uint32_t>(GetBlockNum() * GetTaskRation());
        for (uint32_t sequence = 0; sequence < t.batch; ++sequence) {
            uint32_t parts = source.PartsOf(source.LengthOf(sequence));
            if (parts == 1) {
                continue;
            }
            for (; index < t.heads; index += cores) {
                Join(sequence, index, parts);
            }
            index -= t.heads;
        }
    }

private:
    __aicore__ inline void Join(uint32_t sequence, uint32_t head, uint32_t parts)
    {
        uint32_t group = t.heads / t.key_heads;
        uint32_t row = head % group;
        uint64_t first = source.PartOf(sequence, head / group, 0);
        uint32_t far = static_cast<uint32_t>(PartFloats(t) * sizeof(float));
        LocalTensor<float> rows = inputs.template AllocTensor<float>();
        Gather(rows, first + static_cast<uint64_t>(row) * t.value_width, parts, t.value_width, far);
        inputs.EnQue(rows);
        LocalTensor<float> mark = marks.template AllocTensor<float>();
        uint64_t at = first + static_cast<uint64_t>(group) * t.value_width + row * BLOCK_FLOATS;
        Gather(mark, at, parts, BLOCK_FLOATS, far);
        Gather(mark[parts * BLOCK_FLOATS], at + group * BLOCK_FLOATS, parts, BLOCK_FLOATS, far);
        marks.EnQue(mark);
        mark = marks.template DeQue<float>();
        Shares(mark, parts);
        rows = inputs.template DeQue<float>();
        for (uint32_t part = 0; part < parts; ++part) {
            ScaleBy(rows[part * t.value_width], mark[part * BLOCK_FLOATS], t.value_width);
        }
        PipeBarrier<PIPE_V>();
        marks.FreeTensor(mark);
        for (uint32_t part = 1; part < parts; ++part) {
            Add(rows, rows, rows[part * t.value_width], static_cast<int32_t>(t.value_width));
            PipeBarrier<PIPE_V>();
        }
        LocalTensor<T> out = outputs.template AllocTensor<T>();
        Cast(out, rows, RoundMode::CAST_RINT, t.value_width);
        inputs.FreeTensor(rows);
        outputs.EnQue(out);
        out = outputs.template DeQue<T>();
        uint64_t to = static_cast<uint64_t>(sequence) * t.y_batch + static_cast<uint64_t>(head) * t.y_head;
        CopyOut(source.result[to], out, 1, t.value_width);
        outputs.FreeTensor(out);
    }

    // `length` floats of each part.
    __aicore__ inline void Gather(const LocalTensor<float>& to, uint64_t at, uint32_t parts, uint32_t length, uint32_t far)
    {
        uint32_t bytes = length * sizeof(float);
        DataCopyExtParams runs{static_cast<uint16_t>(parts), bytes, static_cast<uint32_t>(far - bytes), 0, 0};
        DataCopyPad(to, source.partial[at], runs, {false, 0, 0, 0.0f});
    }

    // From greatest scores and sums, a block a part, to each part's share of the result.
    __aicore__ inline void Shares(const LocalTensor<float>& mark, uint32_t parts)
    {
        LocalTensor<float> totals = mark[parts * BLOCK_FLOATS];
        LocalTensor<float> greatest = scratch.Get<float>();
        LocalTensor<float> total = greatest[BLOCK_FLOATS];
        int32_t all = static_cast<int32_t>(parts * BLOCK_FLOATS);
        int32_t one = static_cast<int32_t>(BLOCK_FLOATS);
        Adds(greatest, mark, 0.0f, one);
        Duplicate(total, 0.0f, one);
        PipeBarrier<PIPE_V>();
        for (uint32_t part = 1; part < parts; ++part) {
            Max(greatest, greatest, mark[part * BLOCK_FLOATS], one);
            PipeBarrier<PIPE_V>();
        }
        BinaryRepeatParams steps{1, 1, 1, 1, 1, 0};
        Sub(mark, mark, greatest, static_cast<uint64_t>(BLOCK_FLOATS), static_cast<uint8_t>(parts), steps);
        PipeBarrier<PIPE_V>();
        Exp(mark, mark, all);
        PipeBarrier<PIPE_V>();
        Mul(mark, mark, totals, all);
        PipeBarrier<PIPE_V>();
        for (uint32_t part = 0; part < parts; ++part) {
            Add(total, total, mark[part * BLOCK_FLOATS], one);
            PipeBarrier<PIPE_V>();
        }
        Div(mark, mark, total, static_cast<uint64_t>(BLOCK_FLOATS), static_cast<uint8_t>(parts), steps);
        PipeBarrier<PIPE_V>();
    }

    Paged<T>& source;
    PagedTiling t;
    TQue<TPosition::VECIN, 1> inputs;
    TQue<TPosition::VECIN, 1> marks;
    TQue<TPosition::VECOUT, 1> outputs;
    TBuf<TPosition::VECCALC> scratch;
};

template <typename T>
__aicore__ inline void Decode(GM_ADDR q, GM_ADDR k, GM_ADDR v, GM_ADDR table, GM_ADDR lengths, GM_ADDR y, GM_ADDR workspace,
                              GM_ADDR tiling)
{
    PagedTiling t = ReadTiling<PagedTiling>(tiling);
    GlobalTensor<T> query;
    query.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(q));
    Paged<T> source(t, k, v, table, lengths, y, workspace);
    TPipe pipe;
    Attend<T>(pipe, source, {t.width, t.value_width, FloatOfBits(t.scale_bits)}, Slots<T>(workspace, t.value_width), query);
    if (t.parts > 1) {
        if ASCEND_IS_AIV {
            pipe.Reset();
            SyncAll();
            Joiner<T> joiner(pipe, source);
            joiner.Process();
        }
    }
}

} // namespace npu
