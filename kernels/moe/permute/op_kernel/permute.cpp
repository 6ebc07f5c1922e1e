// Rows of tokens grouped by the expert that they go to: a counting sort, stable because blocks hold tokens in their order
// and each block goes through its own in theirs.
//
// Every block counts the choices of its tokens; when all have, each knows from all counts where its own rows go. Copies
// pass local memory without being looked at, so that the element type is only a size: a row counts in 16-bit words.
// A choice of an expert that there is not stops the device (Trap): no row could be right.
#include "../../../common/vector.h"
#include "permute_tiling.h"

namespace {

using namespace npu;

class Permute {
public:
    __aicore__ inline Permute(GM_ADDR x, GM_ADDR chosen, GM_ADDR rows, GM_ADDR order, GM_ADDR places, GM_ADDR ends,
                              GM_ADDR workspace, GM_ADDR tiling)
        : t(ReadTiling<PermuteTiling>(tiling)), share(t.tokens), counters(RoundUp(t.experts, BLOCK_FLOATS))
    {
        uint64_t copies = static_cast<uint64_t>(t.tokens) * t.k;
        xGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ uint16_t*>(x), static_cast<uint64_t>(t.tokens) * t.width);
        chosenGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ uint32_t*>(chosen), copies);
        rowsGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ uint16_t*>(rows), copies * t.width);
        orderGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ uint32_t*>(order), copies);
        placesGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ uint32_t*>(places), copies);
        endsGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ int64_t*>(ends), t.experts);
        countsGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(workspace),
                                     static_cast<uint64_t>(GetBlockNum()) * counters);

        pipe.InitBuffer(countQueue, 2, counters * sizeof(int32_t));
        pipe.InitBuffer(rowQueue, 2, RoundUp(t.chunk * sizeof(uint16_t), BLOCK_BYTES));
        pipe.InitBuffer(chosenBuffer, RoundUp(t.batch * t.k * sizeof(uint32_t), BLOCK_BYTES));
        pipe.InitBuffer(placeBuffer, RoundUp(t.batch * t.k * sizeof(uint32_t), BLOCK_BYTES));
        pipe.InitBuffer(slotBuffer, t.batch * t.k * BLOCK_BYTES);
        pipe.InitBuffer(nextBuffer, counters * sizeof(int32_t));
        pipe.InitBuffer(totalBuffer, counters * sizeof(int32_t));
        pipe.InitBuffer(endBuffer, RoundUp(t.experts * sizeof(int64_t), BLOCK_BYTES));
    }

    __aicore__ inline void Process()
    {
        CountChoices();
        SyncAll();
        FirstPlaces();
        for (uint32_t done = 0; done < share.count; done += t.batch) {
            Move(share.first + done, Smaller(t.batch, share.count - done));
        }
    }

private:
    // The choices of `tokens` tokens, where the scalar unit can read them.
    __aicore__ inline LocalTensor<uint32_t> LoadChosen(uint32_t token, uint32_t tokens)
    {
        LocalTensor<uint32_t> chosen = chosenBuffer.Get<uint32_t>();
        Await<HardEvent::S_MTE2>();
        CopyIn(chosen, chosenGlobal[static_cast<uint64_t>(token) * t.k], 1, tokens * t.k);
        Await<HardEvent::MTE2_S>();
        return chosen;
    }

    __aicore__ inline uint32_t Checked(uint32_t expert)
    {
        if (expert >= t.experts) {
            Trap();
            return t.experts - 1; // A twin goes on, and must not write elsewhere.
        }
        return expert;
    }

    __aicore__ inline void CountChoices()
    {
        LocalTensor<int32_t> counts = nextBuffer.Get<int32_t>();
        Duplicate(counts, 0, static_cast<int32_t>(counters));
        Await<HardEvent::V_S>();
        for (uint32_t done = 0; done < share.count; done += t.batch) {
            uint32_t tokens = Smaller(t.batch, share.count - done);
            LocalTensor<uint32_t> chosen = LoadChosen(share.first + done, tokens);
            for (uint32_t i = 0; i < tokens * t.k; ++i) {
                uint32_t expert = Checked(chosen.GetValue(i));
                counts.SetValue(expert, counts.GetValue(expert) + 1);
            }
        }
        Await<HardEvent::S_MTE3>();
        CopyOut(countsGlobal[static_cast<uint64_t>(GetBlockIdx()) * counters], counts, 1, counters);
    }

    // Where this block's first row of each expert goes, to `nextBuffer`: after the rows of smaller experts, and after
    // those of this expert that come from blocks before.
    __aicore__ inline void FirstPlaces()
    {
        LocalTensor<int32_t> before = nextBuffer.Get<int32_t>();
        LocalTensor<int32_t> totals = totalBuffer.Get<int32_t>();
        int32_t count = static_cast<int32_t>(counters);
        Duplicate(before, 0, count);
        Duplicate(totals, 0, count);
        PipeBarrier<PIPE_V>();
        uint32_t blocks = static_cast<uint32_t>(GetBlockNum());
        uint32_t index = static_cast<uint32_t>(GetBlockIdx());
        for (uint32_t block = 0; block < blocks; ++block) {
            LocalTensor<int32_t> theirs = countQueue.AllocTensor<int32_t>();
            CopyIn(theirs, countsGlobal[static_cast<uint64_t>(block) * counters], 1, counters);
            countQueue.EnQue(theirs);
            theirs = countQueue.DeQue<int32_t>();
            if (block < index) {
                Add(before, before, theirs, count);
            }
            Add(totals, totals, theirs, count);
            PipeBarrier<PIPE_V>();
            countQueue.FreeTensor(theirs);
        }
        Await<HardEvent::V_S>();
        LocalTensor<int64_t> ends = endBuffer.Get<int64_t>();
        int32_t end = 0;
        for (uint32_t expert = 0; expert < t.experts; ++expert) {
            before.SetValue(expert, before.GetValue(expert) + end);
            end += totals.GetValue(expert);
            ends.SetValue(expert, end);
        }
        if (index == 0) {
            Await<HardEvent::S_MTE3>();
            CopyOut(endsGlobal, ends, 1, t.experts);
        }
    }

    __aicore__ inline void Move(uint32_t token, uint32_t tokens)
    {
        LocalTensor<uint32_t> chosen = LoadChosen(token, tokens);
        LocalTensor<uint32_t> places = placeBuffer.Get<uint32_t>();
        LocalTensor<uint32_t> slots = slotBuffer.Get<uint32_t>();
        LocalTensor<int32_t> next = nextBuffer.Get<int32_t>();
        // The batch before must have been written before its numbers change.
        Await<HardEvent::MTE3_S>();
        uint32_t first = token * t.k;
        for (uint32_t i = 0; i < tokens * t.k; ++i) {
            uint32_t expert = Checked(chosen.GetValue(i));
            int32_t place = next.GetValue(expert);
            next.SetValue(expert, place + 1);
            places.SetValue(i, static_cast<uint32_t>(place));
            // Copies start at a block of local memory, so that each number has one to itself.
            slots.SetValue(i * BLOCK_FLOATS, first + i);
        }
        Await<HardEvent::S_MTE3>();
        CopyOut(placesGlobal[first], places, 1, tokens * t.k);
        for (uint32_t i = 0; i < tokens * t.k; ++i) {
            CopyOut(orderGlobal[places.GetValue(i)], slots[i * BLOCK_FLOATS], 1, 1);
        }
        for (uint32_t i = 0; i < tokens; ++i) {
            for (uint32_t column = 0; column < t.width; column += t.chunk) {
                Copy(token + i, places[i * t.k], column, Smaller(t.chunk, t.width - column));
            }
        }
    }

    // A piece of one token's row to each of its places.
    __aicore__ inline void Copy(uint32_t token, const LocalTensor<uint32_t>& places, uint32_t column, uint32_t length)
    {
        LocalTensor<uint16_t> row = rowQueue.AllocTensor<uint16_t>();
        CopyIn(row, xGlobal[static_cast<uint64_t>(token) * t.width + column], 1, length);
        rowQueue.EnQue(row);
        row = rowQueue.DeQue<uint16_t>();
        for (uint32_t j = 0; j < t.k; ++j) {
            CopyOut(rowsGlobal[static_cast<uint64_t>(places.GetValue(j)) * t.width + column], row, 1, length);
        }
        rowQueue.FreeTensor(row);
    }

    PermuteTiling t;
    Share share;
    uint32_t counters; // a count an expert, up to a whole block
    TPipe pipe;
    TQue<TPosition::VECIN, 2> countQueue;
    TQueBind<TPosition::VECIN, TPosition::VECOUT, 2> rowQueue;
    TBuf<TPosition::VECCALC> nextBuffer, totalBuffer, endBuffer, placeBuffer, slotBuffer;
    TBuf<TPosition::VECIN> chosenBuffer;
    GlobalTensor<uint16_t> xGlobal, rowsGlobal;
    GlobalTensor<uint32_t> chosenGlobal, orderGlobal, placesGlobal;
    GlobalTensor<int64_t> endsGlobal;
    GlobalTensor<int32_t> countsGlobal;
};

} // namespace

// Rows of 16-bit words, whatever they hold.
extern "C" __global__ __aicore__ void permute_b16(GM_ADDR x, GM_ADDR chosen, GM_ADDR rows, GM_ADDR order, GM_ADDR places,
                                                  GM_ADDR ends, GM_ADDR workspace, GM_ADDR tiling)
{
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    Permute(x, chosen, rows, order, places, ends, workspace, tiling).Process();
}
