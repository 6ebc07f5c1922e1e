// Attention of many queries a sequence (prefill): softmax(scale * q kᵀ) v, causal or not, with shared key heads, over
// sequences of one length or of many.
#include "../../common/softmax.h"
#include "flash_attention_tiling.h"

namespace {

using namespace npu;

// Tasks: 128 queries of one head. The last tiles of all sequences come first, for with a causal mask they are the longest;
// blocks take turns, and every other time in the opposite order, so that none has the longest of each round.
template <typename T>
class Dense {
public:
    __aicore__ inline Dense(const FlashAttentionTiling& tiling, GM_ADDR k, GM_ADDR v, GM_ADDR lengthsAddress, GM_ADDR y)
        : t(tiling), index(BlockOfCore()), ahead(2 * static_cast<uint32_t>(GetBlockNum() - BlockOfCore()) - 1),
          tile(CeilDiv(tiling.queries, TASK_ROWS))
    {
        keys.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(k));
        values.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(v));
        result.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(y));
        lengths.SetGlobalBuffer(reinterpret_cast<__gm__ int64_t*>(lengthsAddress), 2 * (t.batch + 1));
        sequence = t.batch;
        heads = 0;
    }

    __aicore__ inline bool Next(Task& task)
    {
        while (index >= heads) {
            index -= heads;
            if (++sequence >= t.batch) {
                if (tile == 0) {
                    return false;
                }
                --tile;
                sequence = 0;
            }
            Measure();
        }
        Describe(task, index);
        index += ahead;
        ahead = 2 * static_cast<uint32_t>(GetBlockNum()) - ahead;
        return true;
    }

    __aicore__ inline void LoadKeys(const LocalTensor<T>& to, const Task& task, uint32_t first, uint32_t count, uint32_t tall)
    {
        LoadNz(to, keys[task.first_key + At(first, t.k_row)], count, t.width, t.k_row, tall);
    }

    __aicore__ inline void LoadValues(const LocalTensor<T>& to, const Task& task, uint32_t first, uint32_t count,
                                      uint32_t tall, uint32_t column, uint32_t columns)
    {
        uint64_t at = task.first_value + At(first, t.v_row) + column;
        LoadNz(to, values[at], count, columns, t.v_row, tall);
    }

    __aicore__ inline void Finish(ResultQueue& queue, const Task& task, uint32_t row, uint32_t rows,
                                  const LocalTensor<float>& from, const LocalTensor<float>&, const LocalTensor<float>&)
    {
        LocalTensor<T> out = queue.AllocTensor<T>();
        Cast(out, from, RoundMode::CAST_RINT, rows * t.value_width);
        queue.EnQue(out);
        out = queue.DeQue<T>();
        CopyOut(result[task.result + At(row, t.y_row)], out, rows, t.value_width,
                t.y_row - t.value_width);
        queue.FreeTensor(out);
    }

private:
    __aicore__ inline uint64_t At(uint32_t index, uint32_t stride) { return static_cast<uint64_t>(index) * stride; }

    // The sequence's lengths, and whether it has queries in this tile.
    __aicore__ inline void Measure()
    {
        first_query = first_position = 0;
        queries = t.queries;
        length = t.keys;
        if (t.ragged != 0) {
            first_query = static_cast<uint32_t>(lengths.GetValue(sequence));
            queries = static_cast<uint32_t>(lengths.GetValue(sequence + 1)) - first_query;
            first_position = static_cast<uint32_t>(lengths.GetValue(t.batch + 1 + sequence));
            length = static_cast<uint32_t>(lengths.GetValue(t.batch + 2 + sequence)) - first_position;
        }
        heads = tile * TASK_ROWS < queries ? t.heads : 0;
    }

    __aicore__ inline void Describe(Task& task, uint32_t head)
    {
        uint32_t row = tile * TASK_ROWS;
        uint32_t of_key = head / (t.heads / t.key_heads);
        task.rows = Smaller(TASK_ROWS, queries - row);
        task.query = At(sequence, t.q_batch) + At(head, t.q_head) + At(first_query + row, t.q_row);
        task.pitch = t.q_row;
        task.result = At(sequence, t.y_batch) + At(head, t.y_head) + At(first_query + row, t.y_row);
        task.first_key = At(sequence, t.k_batch) + At(of_key, t.k_head) + At(first_position, t.k_row);
        task.first_value = At(sequence, t.v_batch) + At(of_key, t.v_head) + At(first_position, t.v_row);
        task.keys = length;
        task.visible = static_cast<int32_t>(length);
        task.advance = 0;
        if (t.causal != 0) {
            int32_t offset = t.ragged != 0 ? static_cast<int32_t>(length) - static_cast<int32_t>(queries) : t.offset;
            task.advance = 1;
            task.visible = static_cast<int32_t>(row) + offset + 1;
            int32_t last = task.visible + static_cast<int32_t>(task.rows) - 1;
            task.keys = last <= 0 ? 0 : Smaller(length, static_cast<uint32_t>(last));
        }
    }

    FlashAttentionTiling t;
    GlobalTensor<T> keys;
    GlobalTensor<T> values;
    GlobalTensor<T> result;
    GlobalTensor<int64_t> lengths;
    uint32_t index; // of the next task, among those of the tile and sequence it is counted from
    uint32_t ahead; // to the one after it
    uint32_t tile;
    uint32_t sequence;
    uint32_t heads; // that have a task in this tile of this sequence
    uint32_t first_query = 0;
    uint32_t queries = 0;
    uint32_t first_position = 0;
    uint32_t length = 0;
};

template <typename T>
__aicore__ inline void Run(GM_ADDR q, GM_ADDR k, GM_ADDR v, GM_ADDR lengths, GM_ADDR y, GM_ADDR workspace, GM_ADDR tiling)
{
    FlashAttentionTiling t = ReadTiling<FlashAttentionTiling>(tiling);
    GlobalTensor<T> query;
    query.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(q));
    Dense<T> source(t, k, v, lengths, y);
    TPipe pipe;
    Attend<T>(pipe, source, {t.width, t.value_width, FloatOfBits(t.scale_bits)}, Slots<T>(workspace, t.value_width), query);
}

} // namespace

#define ENTRY(name, type)                                                                                              \
    extern "C" __global__ __aicore__ void flash_attention_##name(GM_ADDR q, GM_ADDR k, GM_ADDR v, GM_ADDR lengths,      \
                                                                 GM_ADDR y, GM_ADDR workspace, GM_ADDR tiling)          \
    {                                                                                                                  \
        KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);                                                             \
        Run<type>(q, k, v, lengths, y, workspace, tiling);                                                             \
    }
ENTRY(f16, half)
ENTRY(bf16, bfloat16_t)
#undef ENTRY
