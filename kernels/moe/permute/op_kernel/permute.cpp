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
    __aicore__ inline Permute(GM_ADDR x, GM_ADDR chosen, GM_ADDR rows, GM_ADDR places, GM_ADDR ends,
                              GM_ADDR workspace, GM_ADDR tiling)
        : t(ReadTiling<PermuteTiling>(tiling)), share(t.tokens), counters(RoundUp(t.experts, BLOCK_FLOATS))
    {
        uint64_t copies = static_cast<uint64_t>(t.tokens) * t.k;
        xGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ uint16_t*>(x), static_cast<uint64_t>(t.tokens) * t.width);
        chosenGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ uint32_t*>(chosen), copies);
        rowsGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ uint16_t*>(rows), copies * t.width);
        placesGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ uint32_t*>(places), copies);
        endsGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ int64_t*>(ends), t.experts);
        countsGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(workspace),
                                     static_cast<uint64_t>(GetBlockNum()) * counters);

        pipe.InitBuffer(countQueue, 2, t.counts * counters * sizeof(int32_t));
        pipe.InitBuffer(rowQueue, 2, RoundUp(t.chunk * sizeof(uint16_t), BLOCK_BYTES));
        pipe.InitBuffer(chosenBuffer, RoundUp(t.batch * t.k * sizeof(uint32_t), BLOCK_BYTES));
        pipe.InitBuffer(placeBuffer, RoundUp(t.batch * t.k * sizeof(uint32_t), BLOCK_BYTES));
        pipe.InitBuffer(nextBuffer, counters * sizeof(int32_t));
        pipe.InitBuffer(totalBuffer, counters * sizeof(int32_t));
        pipe.InitBuffer(scanBuffer, 2 * counters * sizeof(int32_t));
        pipe.InitBuffer(shiftBuffer, counters * sizeof(int32_t));
        pipe.InitBuffer(offsetBuffer, counters * sizeof(int32_t));
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
        LocalTensor<int32_t> ends = scanBuffer.Get<int32_t>()[counters];
        int32_t count = static_cast<int32_t>(counters);
        Duplicate(before, 0, count);
        Duplicate(totals, 0, count);
        PipeBarrier<PIPE_V>();
        AddCounts(before, totals);
        Scan(totals);
        Add(before, before, ends, count);
        if (GetBlockIdx() == 0) {
            Cast(endBuffer.Get<int64_t>(), ends, RoundMode::CAST_NONE, t.experts);
            Await<HardEvent::V_MTE3>();
            CopyOut(endsGlobal, endBuffer.Get<int64_t>(), 1, t.experts);
        }
        PipeBarrier<PIPE_V>();
        Sub(before, before, totals, count);
        Await<HardEvent::V_S>();
    }

    // The counts of all blocks to `totals`, and of those before this one to `before`.
    __aicore__ inline void AddCounts(const LocalTensor<int32_t>& before, const LocalTensor<int32_t>& totals)
    {
        int32_t count = static_cast<int32_t>(counters);
        uint32_t blocks = static_cast<uint32_t>(GetBlockNum());
        uint32_t index = static_cast<uint32_t>(GetBlockIdx());
        for (uint32_t first = 0; first < blocks; first += t.counts) {
            uint32_t some = Smaller(t.counts, blocks - first);
            LocalTensor<int32_t> theirs = countQueue.AllocTensor<int32_t>();
            CopyIn(theirs, countsGlobal[static_cast<uint64_t>(first) * counters], 1, some * counters);
            countQueue.EnQue(theirs);
            theirs = countQueue.DeQue<int32_t>();
            for (uint32_t i = 0; i < some; ++i) {
                if (first + i < index) {
                    Add(before, before, theirs[i * counters], count);
                }
                Add(totals, totals, theirs[i * counters], count);
                PipeBarrier<PIPE_V>();
            }
            countQueue.FreeTensor(theirs);
        }
    }

    // Where each expert's rows end: the running sum of `totals`, in the second half of `scanBuffer`. Each step adds what
    // lies twice as far to the left; the first half is what lies to the left of all, zeros.
    __aicore__ inline void Scan(const LocalTensor<int32_t>& totals)
    {
        LocalTensor<int32_t> zeros = scanBuffer.Get<int32_t>();
        LocalTensor<int32_t> sums = zeros[counters];
        LocalTensor<int32_t> shifted = shiftBuffer.Get<int32_t>();
        LocalTensor<int32_t> offsets = offsetBuffer.Get<int32_t>();
        int32_t count = static_cast<int32_t>(counters);
        Duplicate(zeros, 0, count);
        Adds(sums, totals, 0, count);
        CreateVecIndex(offsets, 0, counters);
        PipeBarrier<PIPE_V>();
        Muls(offsets, offsets, static_cast<int32_t>(sizeof(int32_t)), count);
        PipeBarrier<PIPE_V>();
        for (uint32_t step = 1; step < counters; step *= 2) {
            Gather(shifted, zeros, offsets.ReinterpretCast<uint32_t>(),
                   static_cast<uint32_t>((counters - step) * sizeof(int32_t)), counters);
            PipeBarrier<PIPE_V>();
            Add(sums, sums, shifted, count);
            PipeBarrier<PIPE_V>();
        }
    }

    __aicore__ inline void Move(uint32_t token, uint32_t tokens)
    {
        LocalTensor<uint32_t> chosen = LoadChosen(token, tokens);
        LocalTensor<uint32_t> places = placeBuffer.Get<uint32_t>();
        LocalTensor<int32_t> next = nextBuffer.Get<int32_t>();
        // The batch before must have been written before its numbers change.
        Await<HardEvent::MTE3_S>();
        for (uint32_t i = 0; i < tokens * t.k; ++i) {
            uint32_t expert = Checked(chosen.GetValue(i));
            int32_t place = next.GetValue(expert);
            next.SetValue(expert, place + 1);
            places.SetValue(i, static_cast<uint32_t>(place));
        }
        Await<HardEvent::S_MTE3>();
        CopyOut(placesGlobal[static_cast<uint64_t>(token) * t.k], places, 1, tokens * t.k);
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
    TBuf<TPosition::VECCALC> nextBuffer, totalBuffer, scanBuffer, shiftBuffer, offsetBuffer, endBuffer;
    TBuf<TPosition::VECCALC> placeBuffer;
    TBuf<TPosition::VECIN> chosenBuffer;
    GlobalTensor<uint16_t> xGlobal, rowsGlobal;
    GlobalTensor<uint32_t> chosenGlobal, placesGlobal;
    GlobalTensor<int64_t> endsGlobal;
    GlobalTensor<int32_t> countsGlobal;
};

} // namespace

// Rows of 16-bit words, whatever they hold.
extern "C" __global__ __aicore__ void permute_b16(GM_ADDR x, GM_ADDR chosen, GM_ADDR rows, GM_ADDR places, GM_ADDR ends,
                                                  GM_ADDR workspace, GM_ADDR tiling)
{
    KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);
    Permute(x, chosen, rows, places, ends, workspace, tiling).Process();
}
