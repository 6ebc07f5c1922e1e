// What the vector kernels share: the tiling struct, shares of the work, copies of any length, and sums of rows.
//
// Local memory is used up to 184 KiB of the 192 KiB that a vector core has: some of a toolkit's instructions keep the last
// eight to themselves.
#pragma once
#include "kernel_operator.h"

namespace npu {

using namespace AscendC;

// A repeat of a vector instruction: 256 bytes, eight blocks of 32.
constexpr uint32_t BLOCK_BYTES = 32;
constexpr uint32_t LANES = 64;
constexpr uint32_t BLOCK_FLOATS = 8;
constexpr uint32_t MOST_REPEATS = 255;

__aicore__ inline uint32_t RoundUp(uint32_t value, uint32_t unit)
{
    return (value + unit - 1) / unit * unit;
}

__aicore__ inline uint32_t Smaller(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

__aicore__ inline float FloatOfBits(uint32_t bits)
{
    union {
        uint32_t bits;
        float value;
    } either;
    either.bits = bits;
    return either.value;
}

__aicore__ inline float MinusInfinity()
{
    return FloatOfBits(0xff800000u);
}

// The host's struct, word by word: it lies in device memory, where only scalar reads reach it.
template <typename Tiling>
__aicore__ inline Tiling ReadTiling(GM_ADDR address)
{
    union {
        Tiling fields;
        uint32_t words[sizeof(Tiling) / sizeof(uint32_t)];
    } tiling;
    GlobalTensor<uint32_t> words;
    words.SetGlobalBuffer(reinterpret_cast<__gm__ uint32_t*>(address), sizeof(Tiling) / sizeof(uint32_t));
    for (uint32_t i = 0; i < sizeof(Tiling) / sizeof(uint32_t); ++i) {
        tiling.words[i] = words.GetValue(i);
    }
    return tiling.fields;
}

// This block's part of `total` equal pieces: shares differ by one piece at most, and the longer ones come first.
struct Share {
    uint32_t first;
    uint32_t count;

    __aicore__ inline Share(uint32_t total)
    {
        uint32_t blocks = static_cast<uint32_t>(GetBlockNum());
        uint32_t index = static_cast<uint32_t>(GetBlockIdx());
        uint32_t each = total / blocks;
        uint32_t longer = total % blocks;
        first = index * each + Smaller(index, longer);
        count = each + (index < longer ? 1 : 0);
    }
};

// Makes what comes next on one pipe wait for what came before on another.
template <HardEvent EVENT>
__aicore__ inline void Await()
{
    event_t event = static_cast<event_t>(GetTPipePtr()->FetchEventID(EVENT));
    SetFlag<EVENT>(event);
    WaitFlag<EVENT>(event);
}

// `rows` runs of `length` elements that follow each other in device memory, each to a place that starts a block; what a
// run lacks to a whole block is zero.
template <typename T>
__aicore__ inline void CopyIn(const LocalTensor<T>& to, const GlobalTensor<T>& from, uint32_t rows, uint32_t length)
{
    uint32_t rest = RoundUp(length, BLOCK_BYTES / sizeof(T)) - length;
    DataCopyExtParams runs{static_cast<uint16_t>(rows), static_cast<uint32_t>(length * sizeof(T)), 0, 0, 0};
    DataCopyPadExtParams<T> padding;
    padding.isPad = rest != 0;
    padding.rightPadding = static_cast<uint8_t>(rest);
    DataCopyPad(to, from, runs, padding);
}

// The way back; `gap` elements of device memory are left alone between runs.
template <typename T>
__aicore__ inline void CopyOut(const GlobalTensor<T>& to, const LocalTensor<T>& from, uint32_t rows, uint32_t length,
                               uint32_t gap = 0)
{
    DataCopyExtParams runs{static_cast<uint16_t>(rows), static_cast<uint32_t>(length * sizeof(T)), 0,
                           static_cast<uint32_t>(gap * sizeof(T)), 0};
    DataCopyPad(to, from, runs);
}

template <typename T>
__aicore__ inline void Widen(const LocalTensor<float>& to, const LocalTensor<T>& from, uint32_t count)
{
    if constexpr (IsSameType<T, float>::value) {
        Muls(to, from, 1.0f, static_cast<int32_t>(count));
    } else {
        Cast(to, from, RoundMode::CAST_NONE, count);
    }
}

template <typename T>
__aicore__ inline void Narrow(const LocalTensor<T>& to, const LocalTensor<float>& from, uint32_t count)
{
    if constexpr (IsSameType<T, float>::value) {
        Muls(to, from, 1.0f, static_cast<int32_t>(count));
    } else {
        Cast(to, from, RoundMode::CAST_RINT, count);
    }
}

// The floats of work that `SumInto` wants for rows of `count`.
__aicore__ inline uint32_t SumWork(uint32_t count)
{
    return RoundUp(count, LANES * LANES) / LANES + LANES;
}

// The sum of `count` values to `to`, which need not start a block. Sums of 64 are added up by sums of 64 again: an error
// that grows with the logarithm of the count. At most 255 * 64 values.
__aicore__ inline void SumInto(const LocalTensor<float>& to, LocalTensor<float> values, LocalTensor<float> work,
                               uint32_t count)
{
    while (count > LANES) {
        uint32_t whole = count / LANES;
        uint32_t rest = count % LANES;
        WholeReduceSum(work, values, static_cast<int32_t>(LANES), static_cast<int32_t>(whole), 1, 1, 8);
        if (rest != 0) {
            PipeBarrier<PIPE_V>(); // The two may write one block.
            WholeReduceSum(work[whole], values[whole * LANES], static_cast<int32_t>(rest), 1, 1, 1, 8);
        }
        PipeBarrier<PIPE_V>();
        count = whole + (rest != 0 ? 1 : 0);
        values = work;
        work = work[RoundUp(count, LANES)];
    }
    WholeReduceSum(to, values, static_cast<int32_t>(count), 1, 1, 1, 8);
    PipeBarrier<PIPE_V>();
}

// `values` times the one number that fills the block `factor`.
__aicore__ inline void ScaleBy(const LocalTensor<float>& values, const LocalTensor<float>& factor, uint32_t count)
{
    uint32_t whole = count / LANES;
    uint32_t rest = count % LANES;
    BinaryRepeatParams along{1, 1, 0, 8, 8, 0};
    if (whole != 0) {
        Mul(values, values, factor, static_cast<uint64_t>(LANES), static_cast<uint8_t>(whole), along);
    }
    if (rest != 0) {
        auto last = values[whole * LANES];
        Mul(last, last, factor, static_cast<uint64_t>(rest), 1, along);
    }
}

} // namespace npu

// One entry for each element type that a kernel takes.
#define FOR_FLOATS(ENTRY) \
    ENTRY(f32, float)     \
    ENTRY(f16, half)      \
    ENTRY(bf16, bfloat16_t)
