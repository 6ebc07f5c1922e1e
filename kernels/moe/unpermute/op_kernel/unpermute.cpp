// The rows of a token's experts, weighted and added up in F32 in the order of its choices, and rounded once.
//
// `places` says which row of `y` belongs to a choice. A place outside of `y` stops the device (Trap).
#include "../../../common/vector.h"
#include "unpermute_tiling.h"

namespace {

using namespace npu;

template <typename T>
class Unpermute {
public:
    __aicore__ inline Unpermute(GM_ADDR y, GM_ADDR places, GM_ADDR weights, GM_ADDR out, GM_ADDR tiling)
        : t(ReadTiling<UnpermuteTiling>(tiling)), share(t.tokens * t.chunks)
    {
        uint64_t copies = static_cast<uint64_t>(t.tokens) * t.k;
        yGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(y), copies * t.width);
        placesGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ uint32_t*>(places), copies);
        weightsGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(weights), copies);
        outGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(out), static_cast<uint64_t>(t.tokens) * t.width);

        pipe.InitBuffer(rowQueue, AHEAD, RoundUp(t.chunk * sizeof(T), BLOCK_BYTES));
        pipe.InitBuffer(outQueue, 2, RoundUp(t.chunk * sizeof(T), BLOCK_BYTES));
        pipe.InitBuffer(wideBuffer, RoundUp(t.chunk, LANES) * sizeof(float));
        pipe.InitBuffer(sumBuffer, RoundUp(t.chunk, LANES) * sizeof(float));
        pipe.InitBuffer(placeBuffer, RoundUp(t.batch * t.k * sizeof(uint32_t), BLOCK_BYTES));
        pipe.InitBuffer(weightBuffer, RoundUp(t.batch * t.k * sizeof(float), BLOCK_BYTES));
    }

    // Pieces are numbered token by token.
    __aicore__ inline void Process()
    {
        uint32_t end = share.first + share.count;
        for (uint32_t piece = share.first; piece < end;) {
            firstToken = piece / t.chunks;
            uint32_t lastToken = Smaller(firstToken + t.batch - 1, (end - 1) / t.chunks);
            LoadChoices(firstToken, lastToken - firstToken + 1);
            uint32_t until = Smaller(end, (lastToken + 1) * t.chunks);
            Pieces(piece, until - piece);
            piece = until;
        }
    }

private:
    // Rows on their way: a copy takes long to arrive, whatever its size.
    static constexpr uint32_t AHEAD = 4;

    __aicore__ inline void LoadChoices(uint32_t token, uint32_t tokens)
    {
        uint64_t at = static_cast<uint64_t>(token) * t.k;
        Await<HardEvent::S_MTE2>();
        CopyIn(placeBuffer.Get<uint32_t>(), placesGlobal[at], 1, tokens * t.k);
        CopyIn(weightBuffer.Get<float>(), weightsGlobal[at], 1, tokens * t.k);
        Await<HardEvent::MTE2_S>();
    }

    // A step adds one choice's part of a piece.
    __aicore__ inline void Pieces(uint32_t first, uint32_t count)
    {
        uint32_t loaded = 0;
        for (uint32_t step = 0; step < count * t.k; ++step) {
            for (; loaded < Smaller(step + AHEAD, count * t.k); ++loaded) {
                Load(first + loaded / t.k, loaded % t.k);
            }
            Accumulate(first + step / t.k, step % t.k);
        }
    }

    __aicore__ inline uint32_t LengthOf(uint32_t piece)
    {
        return Smaller(t.chunk, t.width - piece % t.chunks * t.chunk);
    }

    __aicore__ inline uint32_t ChoiceOf(uint32_t piece, uint32_t j)
    {
        return (piece / t.chunks - firstToken) * t.k + j;
    }

    __aicore__ inline void Load(uint32_t piece, uint32_t j)
    {
        uint32_t place = placeBuffer.Get<uint32_t>().GetValue(ChoiceOf(piece, j));
        if (place >= t.tokens * t.k) {
            Trap();
        }
        LocalTensor<T> row = rowQueue.template AllocTensor<T>();
        uint64_t at = static_cast<uint64_t>(place) * t.width + piece % t.chunks * t.chunk;
        CopyIn(row, yGlobal[at], 1, LengthOf(piece));
        rowQueue.EnQue(row);
    }

    __aicore__ inline void Accumulate(uint32_t piece, uint32_t j)
    {
        LocalTensor<float> sum = sumBuffer.Get<float>();
        LocalTensor<float> wide = wideBuffer.Get<float>();
        int32_t count = static_cast<int32_t>(RoundUp(LengthOf(piece), BLOCK_BYTES / sizeof(T)));
        float weight = weightBuffer.Get<float>().GetValue(ChoiceOf(piece, j));
        LocalTensor<T> row = rowQueue.template DeQue<T>();
        Widen(wide, row, count);
        PipeBarrier<PIPE_V>();
        rowQueue.FreeTensor(row);
        if (j == 0) {
            Muls(sum, wide, weight, count);
        } else {
            Axpy(sum, wide, weight, count);
        }
        PipeBarrier<PIPE_V>();
        if (j + 1 == t.k) {
            LocalTensor<T> out = outQueue.template AllocTensor<T>();
            Narrow(out, sum, count);
            PipeBarrier<PIPE_V>();
            outQueue.EnQue(out);
            out = outQueue.template DeQue<T>();
            uint64_t at = static_cast<uint64_t>(piece / t.chunks) * t.width + piece % t.chunks * t.chunk;
            CopyOut(outGlobal[at], out, 1, LengthOf(piece));
            outQueue.FreeTensor(out);
        }
    }

    UnpermuteTiling t;
    Share share;
    uint32_t firstToken; // whose places and weights come first in local memory
    TPipe pipe;
    TQue<TPosition::VECIN, AHEAD> rowQueue;
    TQue<TPosition::VECOUT, 2> outQueue;
    TBuf<TPosition::VECCALC> wideBuffer, sumBuffer;
    TBuf<TPosition::VECIN> placeBuffer, weightBuffer;
    GlobalTensor<T> yGlobal, outGlobal;
    GlobalTensor<uint32_t> placesGlobal;
    GlobalTensor<float> weightsGlobal;
};

} // namespace

#define ENTRY(NAME, TYPE)                                                                                         \
    extern "C" __global__ __aicore__ void unpermute_##NAME(GM_ADDR y, GM_ADDR places, GM_ADDR weights, GM_ADDR out, \
                                                           GM_ADDR workspace, GM_ADDR tiling)                     \
    {                                                                                                             \
        KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);                                                           \
        Unpermute<TYPE>(y, places, weights, out, tiling).Process();                                               \
    }

FOR_FLOATS(ENTRY)
