// What the kernels with a matrix product share: tiles on their way from device memory through L1 and L0 to the cube core
// and out again.
//
// A cube core multiplies fractals: blocks of 512 bytes, 16 rows of 32 bytes, `C0` elements a row. In L1 a tile lies as Nz,
// columns of fractals, `tall` rows in a column; in L0A as zZ and in L0B as nZ (the same bytes, seen as columns); in L0C as
// Nz again, of 16 F32 a row.
#pragma once
#include "vector.h"

namespace npu {

constexpr uint32_t FRACTAL_ROWS = 16;
constexpr uint32_t FRACTAL_BYTES = 512;

template <typename T>
constexpr uint32_t C0 = BLOCK_BYTES / sizeof(T);
template <typename T>
constexpr uint32_t FRACTAL = FRACTAL_BYTES / sizeof(T);

// A load moves at most this many fractals.
constexpr uint32_t MOST_FRACTALS = 255;

__aicore__ inline uint32_t CeilDiv(uint32_t value, uint32_t unit)
{
    return (value + unit - 1) / unit;
}

// `rows` of `columns` elements, `pitch` apart in device memory, to L1 as Nz.
template <typename T>
__aicore__ inline void LoadNz(const LocalTensor<T>& to, const GlobalTensor<T>& from, uint32_t rows, uint32_t columns,
                              uint32_t pitch, uint32_t tall, uint32_t times = 1)
{
    Nd2NzParams way;
    way.ndNum = static_cast<uint16_t>(times);
    way.nValue = static_cast<uint16_t>(rows);
    way.dValue = static_cast<uint16_t>(columns);
    way.srcNdMatrixStride = 0;
    way.srcDValue = static_cast<uint16_t>(pitch);
    way.dstNzC0Stride = static_cast<uint16_t>(tall);
    way.dstNzNStride = 1;
    way.dstNzMatrixStride = static_cast<uint16_t>(C0<T>);
    DataCopy(to, from, way);
}

// The same for a left operand. A single row is loaded twice: the cube takes a product of one row for one of a vector, whose
// operand lies otherwise in L0A (`RowsOf`).
template <typename T>
__aicore__ inline void LoadNzLeft(const LocalTensor<T>& to, const GlobalTensor<T>& from, uint32_t rows, uint32_t columns,
                                  uint32_t pitch, uint32_t tall)
{
    LoadNz(to, from, rows, columns, pitch, tall, rows == 1 ? 2 : 1);
}

// The rows of a product over a tile of `rows` that `LoadNzLeft` brought.
__aicore__ inline uint32_t RowsOf(uint32_t rows)
{
    return rows == 1 ? 2 : rows;
}

// Columns of fractals `first..first + depth` of a tile in L1, `rows` fractals high, as the left operand. A tile that begins
// some rows further down is `from` moved by as many fractals.
template <typename T>
__aicore__ inline void LoadLeft(const LocalTensor<T>& to, const LocalTensor<T>& from, uint32_t tall, uint32_t rows,
                                uint32_t first, uint32_t depth)
{
    LoadData2DParams way;
    way.repeatTimes = static_cast<uint8_t>(rows);
    way.srcStride = 1;
    way.dstGap = static_cast<uint16_t>(depth - 1);
    for (uint32_t k = 0; k < depth; ++k) {
        LoadData(to[k * FRACTAL<T>], from[(first + k) * tall * C0<T>], way);
    }
}

// The same columns as the right operand of a product with the tile's transpose: its rows are the product's columns.
template <typename T>
__aicore__ inline void LoadRight(const LocalTensor<T>& to, const LocalTensor<T>& from, uint32_t tall, uint32_t rows,
                                 uint32_t first, uint32_t depth)
{
    LoadData2DParams way;
    way.srcStride = 1;
    way.dstGap = 0;
    if (tall == rows * FRACTAL_ROWS && rows * depth <= MOST_FRACTALS) {
        way.repeatTimes = static_cast<uint8_t>(rows * depth);
        LoadData(to, from[first * tall * C0<T>], way);
        return;
    }
    way.repeatTimes = static_cast<uint8_t>(rows);
    for (uint32_t k = 0; k < depth; ++k) {
        LoadData(to[k * rows * FRACTAL<T>], from[(first + k) * tall * C0<T>], way);
    }
}

// Rows of fractals `first..first + depth` and the first `width` columns of fractals of a tile in L1, as the first of the
// `across` columns of the right operand of a product with the tile itself. For types of 16 bits: a fractal is transposed
// on the way.
template <typename T>
__aicore__ inline void LoadRightAcross(const LocalTensor<T>& to, const LocalTensor<T>& from, uint32_t tall, uint32_t first,
                                       uint32_t depth, uint32_t width, uint32_t across)
{
    LoadData2DParams way;
    way.repeatTimes = static_cast<uint8_t>(width);
    way.srcStride = static_cast<uint16_t>(tall / FRACTAL_ROWS);
    way.dstGap = 0;
    way.ifTranspose = true;
    for (uint32_t k = 0; k < depth; ++k) {
        LoadData(to[k * across * FRACTAL<T>], from[(first + k) * FRACTAL<T>], way);
    }
}

// One fractal of L1 as the last of the `across` columns of a right operand, `depth` fractals deep.
template <typename T>
__aicore__ inline void LoadRightAgain(const LocalTensor<T>& to, const LocalTensor<T>& fractal, uint32_t depth, uint32_t across)
{
    LoadData2DParams way;
    way.repeatTimes = static_cast<uint8_t>(depth);
    way.srcStride = 0;
    way.dstGap = static_cast<uint16_t>(across - 1);
    LoadData(to[(across - 1) * FRACTAL<T>], fractal, way);
}

// sum = left * right, or sum += left * right. Small products that add to one sum must wait for each other: the cube orders
// them by itself from ten fractals on.
template <typename T>
__aicore__ inline void Multiply(const LocalTensor<float>& sum, const LocalTensor<T>& left, const LocalTensor<T>& right,
                                uint32_t rows, uint32_t columns, uint32_t depth, bool first)
{
    MmadParams product;
    product.m = static_cast<uint16_t>(rows);
    product.n = static_cast<uint16_t>(columns);
    product.k = static_cast<uint16_t>(depth);
    product.cmatrixInitVal = first;
    Mmad(sum, left, right, product);
    if ((rows / FRACTAL_ROWS) * (columns / FRACTAL_ROWS) < 10) {
        PipeBarrier<PIPE_M>();
    }
}

// A sum in L0C, `tall` rows high, to `rows` rows of `columns` elements, `pitch` apart: rounded to the type of `to`.
template <typename To>
__aicore__ inline void StoreSum(const GlobalTensor<To>& to, const LocalTensor<float>& sum, uint32_t rows, uint32_t columns,
                                uint32_t tall, uint32_t pitch)
{
    FixpipeParamsV220 way;
    way.nSize = static_cast<uint16_t>(columns);
    way.mSize = static_cast<uint16_t>(rows);
    way.srcStride = static_cast<uint16_t>(tall);
    way.dstStride = pitch;
    if constexpr (IsSameType<To, half>::value) {
        way.quantPre = QuantMode_t::F322F16;
    } else if constexpr (IsSameType<To, bfloat16_t>::value) {
        way.quantPre = QuantMode_t::F322BF16;
    }
    Fixpipe<To, float, CFG_ROW_MAJOR>(to, sum, way);
}

// The block of this core: a vector core shares its block with a second one and the cube core.
__aicore__ inline uint32_t BlockOfCore()
{
    uint32_t index = static_cast<uint32_t>(GetBlockIdx());
    if ASCEND_IS_AIV {
        return index / static_cast<uint32_t>(GetTaskRation());
    }
    return index;
}

} // namespace npu
