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

        pipe.InitBuffer(rowQueue, 2, RoundUp(t.chunk * sizeof(T), BLOCK_BYTES));
        pipe.InitBuffer(outQueue, 2, RoundUp(t.chunk * sizeof(T), BLOCK_BYTES));
        pipe.InitBuffer(wideBuffer, RoundUp(t.chunk, LANES) * sizeof(float));
        pipe.InitBuffer(sumBuffer, RoundUp(t.chunk, LANES) * sizeof(float));
        pipe.InitBuffer(placeBuffer, RoundUp(t.batch * t.k * sizeof(uint32_t), BLOCK_BYTES));
        pipe.InitBuffer(weightBuffer, RoundUp(t.batch * t.k * sizeof(float), BLOCK_BYTES));
    }

    // Pieces are numbered token by token.
    __aicore__ inline void Process()
    {
        uint32_t loadedUntil = 0;
        uint32_t loadedFrom = 0;
        for (uint32_t piece = share.first; piece < share.first + share.count; ++piece) {
            uint32_t token = piece / t.chunks;
            if (token >= loadedUntil) {
                loadedFrom = token;
                loadedUntil = Smaller(token + t.batch, t.tokens);
                LoadChoices(token, loadedUntil - token);
            }
            Piece(token, (token - loadedFrom) * t.k, piece % t.chunks * t.chunk);
        }
    }

private:
    __aicore__ inline void LoadChoices(uint32_t token, uint32_t tokens)
    {
        uint64_t at = static_cast<uint64_t>(token) * t.k;
        Await<HardEvent::S_MTE2>();
        CopyIn(placeBuffer.Get<uint32_t>(), placesGlobal[at], 1, tokens * t.k);
        CopyIn(weightBuffer.Get<float>(), weightsGlobal[at], 1, tokens * t.k);
        Await<HardEvent::MTE2_S>();
    }

    __aicore__ inline void Piece(uint32_t token, uint32_t choice, uint32_t column)
    {
        uint32_t length = Smaller(t.chunk, t.width - column);
        uint32_t count = RoundUp(length, BLOCK_BYTES / sizeof(T));
        LocalTensor<float> sum = sumBuffer.Get<float>();
        LocalTensor<float> wide = wideBuffer.Get<float>();
        for (uint32_t j = 0; j < t.k; ++j) {
            uint32_t place = placeBuffer.Get<uint32_t>().GetValue(choice + j);
            if (place >= t.tokens * t.k) {
                Trap();
                place = 0; // A twin goes on, and must not read elsewhere.
            }
            LocalTensor<T> row = rowQueue.template AllocTensor<T>();
            CopyIn(row, yGlobal[static_cast<uint64_t>(place) * t.width + column], 1, length);
            rowQueue.EnQue(row);
            row = rowQueue.template DeQue<T>();
            Widen(wide, row, count);
            PipeBarrier<PIPE_V>();
            rowQueue.FreeTensor(row);
            float weight = weightBuffer.Get<float>().GetValue(choice + j);
            Muls(wide, wide, weight, static_cast<int32_t>(count));
            PipeBarrier<PIPE_V>();
            if (j == 0) {
                Muls(sum, wide, 1.0f, static_cast<int32_t>(count));
            } else {
                Add(sum, sum, wide, static_cast<int32_t>(count));
            }
            PipeBarrier<PIPE_V>();
        }
        LocalTensor<T> out = outQueue.template AllocTensor<T>();
        Narrow(out, sum, count);
        outQueue.EnQue(out);
        out = outQueue.template DeQue<T>();
        CopyOut(outGlobal[static_cast<uint64_t>(token) * t.width + column], out, 1, length);
        outQueue.FreeTensor(out);
    }

    UnpermuteTiling t;
    Share share;
    TPipe pipe;
    TQue<TPosition::VECIN, 2> rowQueue;
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
