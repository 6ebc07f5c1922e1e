// What the instructions of a cube core compute. Layouts are those of the vendor's pages on Nd2Nz, LoadData (2D), Mmad and
// Fixpipe for dav-2201: Nz in L1, zZ in L0A, nZ in L0B, Nz of 16 F32 a row in L0C.
#include "../cube.h"

#include <algorithm>
#include <vector>

#include "core.h"
#include "cost.h"
#include "launch.h"

namespace AscendC::twin {

namespace {

constexpr uint32_t BLOCK = 32, FRACTAL = 512, SIDE = 16;

const NpuTwinSoc& Soc() { return *Me().launch->host.soc; }

constexpr uint32_t CeilDiv(uint32_t value, uint32_t unit) { return (value + unit - 1) / unit; }

float Widen(const uint8_t* at, Type type) {
    if (type == Type::F32) {
        float value;
        std::memcpy(&value, at, 4);
        return value;
    }
    uint16_t bits;
    std::memcpy(&bits, at, 2);
    return type == Type::F16 ? HalfToFloat(bits) : FromBits(uint32_t(bits) << 16);
}

/// Copies bytes with what is known of them: what nobody wrote stays unwritten.
void CopyKnown(Instruction& op, const Local& to, uint64_t target, const Local& from, uint64_t source, uint64_t bytes) {
    if (op.Known(from, source, bytes)) {
        std::memcpy(op.Write(to, target, bytes), op.Read(from, source, bytes), bytes);
    } else if (bytes > BLOCK) {
        for (uint64_t at = 0; at < bytes; at += BLOCK) CopyKnown(op, to, target + at, from, source + at, BLOCK);
    } else {
        op.Peek(from, source, bytes);
        op.Spoil(to, target, bytes);
    }
}

/// A fractal of 16-bit elements, transposed.
void CopyTransposed(Instruction& op, const Local& to, uint64_t target, const Local& from, uint64_t source) {
    uint16_t fractal[SIDE][SIDE] = {};
    bool known[SIDE], whole = true;
    for (uint32_t row = 0; row < SIDE; ++row) {
        known[row] = op.Known(from, source + row * BLOCK, BLOCK);
        whole = whole && known[row];
        const uint8_t* data = known[row] ? op.Read(from, source + row * BLOCK, BLOCK) : nullptr;
        for (uint32_t column = 0; data != nullptr && column < SIDE; ++column)
            std::memcpy(&fractal[column][row], data + 2 * column, 2);
    }
    std::memcpy(op.Write(to, target, FRACTAL), fractal, FRACTAL);
    for (uint32_t row = 0; !whole && row < SIDE; ++row)
        for (uint32_t column = 0; !known[row] && column < SIDE; ++column)
            op.Spoil(to, target + column * BLOCK + 2 * row, 2);
}

}  // namespace

void CopyNz(const Local& to, const Global& from, const Nd2NzParams& way, uint32_t size, Where where) {
    Instruction op(PIPE_MTE2, "DataCopy (Nd2Nz)", where);
    op.Require(to.memory == Memory::L1, "Nd2Nz writes to L1 (A1 or B1)");
    op.RequireAligned(to, BLOCK, "destination");
    op.Require(way.ndNum <= 4095, "ndNum is %u; at most 4095", way.ndNum);
    op.Require(way.nValue <= 16384, "nValue is %u; at most 16384", way.nValue);
    if (way.ndNum == 0 || way.nValue == 0 || way.dValue == 0) return;
    op.Require(way.srcDValue >= 1, "srcDValue is 0");
    op.Require(way.dstNzC0Stride >= 1 && way.dstNzC0Stride <= 16384, "dstNzC0Stride is %u; 1 to 16384", way.dstNzC0Stride);
    op.Require(way.dstNzNStride >= 1 && way.dstNzNStride <= 16384, "dstNzNStride is %u; 1 to 16384", way.dstNzNStride);
    op.Require(way.dstNzMatrixStride * size % BLOCK == 0, "dstNzMatrixStride is %u elements, no multiple of 32 bytes",
               way.dstNzMatrixStride);
    op.Require(way.nValue == 1 || way.dValue <= way.srcDValue, "rows of %u elements lie %u apart", way.dValue,
               way.srcDValue);
    const uint32_t row = way.dValue * size, columns = CeilDiv(row, BLOCK);
    for (uint32_t matrix = 0; matrix < way.ndNum; ++matrix) {
        const uint64_t pitch = uint64_t(way.srcDValue) * size;
        const uint8_t* source =
            op.Read(from, uint64_t(matrix) * way.srcNdMatrixStride * size, row, way.nValue, way.nValue > 1 ? pitch : 0);
        for (uint32_t column = 0; column < columns; ++column) {
            const uint32_t bytes = std::min(BLOCK, row - column * BLOCK);
            const uint64_t target = uint64_t(matrix) * way.dstNzMatrixStride * size + uint64_t(column) * way.dstNzC0Stride * BLOCK;
            const uint64_t step = uint64_t(way.dstNzNStride) * BLOCK;
            uint8_t* run = step == BLOCK ? op.Write(to, target, uint64_t(way.nValue) * BLOCK) : nullptr;
            for (uint32_t n = 0; n < way.nValue; ++n) {
                uint8_t* out = run != nullptr ? run + n * BLOCK : op.Write(to, target + n * step, BLOCK);
                std::memcpy(out, source + n * pitch + column * BLOCK, bytes);
                std::memset(out + bytes, 0, BLOCK - bytes);
            }
        }
    }
    const double rows = double(way.ndNum) * way.nValue;
    Me().tally.gm_to_l1 += uint64_t(rows) * row;
    op.TakesTransfer(uint64_t(rows));
}

void Load2D(const Local& to, const Local& from, const LoadData2DParams& way, uint32_t size, Where where) {
    Instruction op(PIPE_MTE1, "LoadData", where);
    op.Require(from.memory == Memory::L1, "LoadData reads L1 (A1 or B1)");
    op.Require(to.memory == Memory::L0A || to.memory == Memory::L0B, "LoadData writes to L0A (A2) or L0B (B2)");
    op.RequireAligned(to, FRACTAL, "destination");
    op.RequireAligned(from, BLOCK, "source");
    op.Require(!way.ifTranspose || size == 2, "ifTranspose is for types of 16 bits");
    op.Require(way.addrMode == 0, "addrMode is 0 on the way from L1");
    for (uint32_t i = 0; i < way.repeatTimes; ++i) {
        const uint64_t source = (uint64_t(way.startIndex) + uint64_t(i) * way.srcStride) * FRACTAL;
        const uint64_t target = uint64_t(i) * (way.dstGap + 1) * FRACTAL;
        if (way.ifTranspose) {
            CopyTransposed(op, to, target, from, source);
        } else {
            CopyKnown(op, to, target, from, source, FRACTAL);
        }
    }
    const uint64_t bytes = uint64_t(way.repeatTimes) * FRACTAL;
    const bool left = to.memory == Memory::L0A;
    (left ? Me().tally.l1_to_l0a : Me().tally.l1_to_l0b) += bytes;
    op.Takes(double(bytes) / (left ? Soc().l1_to_l0a : Soc().l1_to_l0b));
}

namespace {

/// The operands of a product as F32: `left` [m, k], `right` [columns of fractals of n, k, 16].
struct Operands {
    std::vector<float> left, right;
};

void ReadLeft(Instruction& op, const Local& from, const MmadParams& way, Type type, std::vector<float>& out) {
    const uint32_t size = SizeOf(type), c0 = BLOCK / size, blocks = CeilDiv(way.k, c0);
    out.resize(size_t(way.m) * way.k);
    if (way.m == 1) {
        // A product with one row reads it as a vector.
        const uint8_t* row = op.Read(from, 0, uint64_t(way.k) * size);
        for (uint32_t k = 0; k < way.k; ++k) out[k] = Widen(row + k * size, type);
        return;
    }
    for (uint32_t i = 0; i < CeilDiv(way.m, SIDE); ++i) {
        const uint32_t rows = std::min<uint32_t>(SIDE, way.m - i * SIDE);
        for (uint32_t j = 0; j < blocks; ++j) {
            const uint64_t at = (uint64_t(i) * blocks + j) * FRACTAL;
            const uint32_t columns = std::min<uint32_t>(c0, way.k - j * c0);
            const uint8_t* data = nullptr;
            if (columns == c0) data = op.Read(from, at, uint64_t(rows) * BLOCK);
            for (uint32_t r = 0; r < rows; ++r) {
                const uint8_t* row = data != nullptr ? data + r * BLOCK : op.Read(from, at + r * BLOCK, columns * size);
                float* to = &out[size_t(i * SIDE + r) * way.k + j * c0];
                for (uint32_t c = 0; c < columns; ++c) to[c] = Widen(row + c * size, type);
            }
        }
    }
}

void ReadRight(Instruction& op, const Local& from, const MmadParams& way, Type type, std::vector<float>& out) {
    const uint32_t size = SizeOf(type), c0 = BLOCK / size, across = CeilDiv(way.n, SIDE);
    out.assign(size_t(across) * way.k * SIDE, 0.0f);
    for (uint32_t j = 0; j < CeilDiv(way.k, c0); ++j) {
        const uint32_t depth = std::min<uint32_t>(c0, way.k - j * c0);
        for (uint32_t i = 0; i < across; ++i) {
            const uint64_t at = (uint64_t(j) * across + i) * FRACTAL;
            const uint32_t columns = std::min<uint32_t>(SIDE, way.n - i * SIDE);
            const uint8_t* data = nullptr;
            if (depth == c0) data = op.Read(from, at, uint64_t(columns) * BLOCK);
            for (uint32_t n = 0; n < columns; ++n) {
                const uint8_t* row = data != nullptr ? data + n * BLOCK : op.Read(from, at + n * BLOCK, depth * size);
                float* to = &out[(size_t(i) * way.k + j * c0) * SIDE + n];
                for (uint32_t k = 0; k < depth; ++k) to[k * SIDE] = Widen(row + k * size, type);
            }
        }
    }
}

/// One column of fractals of the sum: `columns` of its 16 are the product's.
void AddColumn(Instruction& op, const Local& sum, uint64_t at, uint32_t tall, uint32_t columns, const float* left,
               const float* right, const MmadParams& way) {
    using Row = float __attribute__((vector_size(SIDE * sizeof(float))));
    constexpr uint64_t ROW = SIDE * sizeof(float);
    const bool whole = columns == SIDE;
    const uint64_t bytes = columns * sizeof(float);
    const uint8_t* before = nullptr;
    if (!way.cmatrixInitVal && whole) before = op.Read(sum, at, way.m * ROW);
    uint8_t* after = whole ? op.Write(sum, at, way.m * ROW) : nullptr;
    for (uint32_t m = 0; m < way.m; ++m) {
        Row row = {};
        if (!way.cmatrixInitVal) std::memcpy(&row, whole ? before + m * ROW : op.Read(sum, at + m * ROW, bytes), bytes);
        for (uint32_t k = 0; k < way.k; ++k) {
            Row factor;
            std::memcpy(&factor, right + k * SIDE, ROW);
            row += factor * left[size_t(m) * way.k + k];
        }
        std::memcpy(whole ? after + m * ROW : op.Write(sum, at + m * ROW, bytes), &row, bytes);
        if (!whole) op.Spoil(sum, at + m * ROW + bytes, ROW - bytes);
    }
    if (way.m < tall) op.Spoil(sum, at + way.m * ROW, (tall - way.m) * ROW);
}

}  // namespace

void Product(const Local& sum, const Local& left, const Local& right, const MmadParams& way, Type type, Where where) {
    Instruction op(PIPE_M, "Mmad", where);
    op.Require(sum.memory == Memory::L0C, "the sum lies in L0C (CO1)");
    op.Require(left.memory == Memory::L0A, "the left operand lies in L0A (A2)");
    op.Require(right.memory == Memory::L0B, "the right operand lies in L0B (B2)");
    op.RequireAligned(sum, 1024, "sum");
    op.RequireAligned(left, FRACTAL, "left operand");
    op.RequireAligned(right, FRACTAL, "right operand");
    op.Require(way.m <= 4095 && way.n <= 4095 && way.k <= 4095, "m, n, k are %u, %u, %u; at most 4095", way.m, way.n, way.k);
    op.Require(way.unitFlag == 0 && !way.cmatrixSource && !way.isBias && !way.kDirectionAlign,
               "the twin has no unitFlag, no bias and no kDirectionAlign");
    if (way.m == 0 || way.n == 0 || way.k == 0) return;
    if ((way.m / SIDE) * (way.n / SIDE) >= 10) op.OrderedInPipe();
    static thread_local Operands operands;
    ReadLeft(op, left, way, type, operands.left);
    ReadRight(op, right, way, type, operands.right);
    const uint32_t tall = CeilDiv(way.m, SIDE) * SIDE, across = CeilDiv(way.n, SIDE);
    for (uint32_t i = 0; i < across; ++i) {
        const uint32_t columns = std::min<uint32_t>(SIDE, way.n - i * SIDE);
        AddColumn(op, sum, uint64_t(i) * tall * SIDE * sizeof(float), tall, columns, operands.left.data(),
                  &operands.right[size_t(i) * way.k * SIDE], way);
    }
    // A fractal of 16 bits is a cycle; one of F32 holds half as many elements and takes two.
    const double fractals = double(CeilDiv(way.m, SIDE)) * across * CeilDiv(way.k * SizeOf(type), BLOCK);
    Me().tally.cube_macs += uint64_t(way.m) * way.n * way.k;
    op.Takes(fractals * (type == Type::F32 ? 2 : 1));
}

void FixOut(const Global& to, const Local& sum, const FixpipeParamsV220& way, Type type, Where where) {
    Instruction op(PIPE_FIX, "Fixpipe", where);
    op.Require(sum.memory == Memory::L0C, "Fixpipe reads L0C (CO1)");
    op.RequireAligned(sum, 64, "source");
    op.Require(way.nSize <= 4095 && way.mSize <= 8192, "nSize and mSize are %u and %u; at most 4095 and 8192", way.nSize,
               way.mSize);
    op.Require(way.ndNum == 1 && way.unitFlag == 0 && !way.isChannelSplit,
               "the twin's Fixpipe moves one matrix, with no unitFlag and no channel split");
    const QuantMode_t wanted = type == Type::F16 ? F322F16 : type == Type::BF16 ? F322BF16 : NoQuant;
    op.Require(way.quantPre == wanted, "quantPre does not make the type of the destination");
    if (way.mSize == 0 || way.nSize == 0) return;
    op.Require(way.dstStride >= way.nSize, "rows of %u elements lie %u apart", way.nSize, way.dstStride);
    const uint32_t size = SizeOf(type);
    std::vector<uint8_t> row(size_t(way.nSize) * size);
    const uint64_t pitch = uint64_t(way.dstStride) * size;
    uint8_t* out = op.Write(to, 0, row.size(), way.mSize, way.mSize > 1 ? pitch : 0);
    for (uint32_t m = 0; m < way.mSize; ++m) {
        for (uint32_t n = 0; n < way.nSize; n += SIDE) {
            const uint32_t columns = std::min<uint32_t>(SIDE, way.nSize - n);
            const uint64_t at = (uint64_t(n / SIDE) * way.srcStride + m) * SIDE * sizeof(float);
            const uint8_t* data = op.Read(sum, at, columns * sizeof(float));
            for (uint32_t c = 0; c < columns; ++c) {
                float value = Widen(data + c * sizeof(float), Type::F32);
                if (way.reluEn && value < 0.0f) value = 0.0f;
                uint8_t* element = &row[size_t(n + c) * size];
                if (type == Type::F32) {
                    std::memcpy(element, &value, size);
                } else {
                    const uint16_t bits = type == Type::F16 ? FloatToHalf(value) : FloatToBfloat(value);
                    std::memcpy(element, &bits, size);
                }
            }
        }
        Store(out + m * pitch, row.data(), row.size(), op);
    }
    Me().tally.l0c_to_gm += uint64_t(way.mSize) * row.size();
    // The slower of its two ends: F32 out of L0C, and what it becomes on the way to L2.
    op.TakesTransfer(way.mSize, double(way.mSize) * way.nSize * sizeof(float) / Soc().l0c_to_gm);
}

}  // namespace AscendC::twin
