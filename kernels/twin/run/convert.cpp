// Conversions, comparisons and selections.
#include <algorithm>
#include <cmath>
#include <limits>

#include "core.h"
#include "cost.h"
#include "lanes.h"

namespace AscendC::twin {

namespace {

double RoundTo(double value, RoundMode mode) {
    switch (mode) {
        case RoundMode::CAST_FLOOR: return std::floor(value);
        case RoundMode::CAST_CEIL: return std::ceil(value);
        case RoundMode::CAST_ROUND: return std::round(value);
        case RoundMode::CAST_TRUNC: return std::trunc(value);
        default: return std::nearbyint(value);
    }
}

/// A float with `kept` of its 23 places of fraction, in any mode; exponents that do not fit are the caller's.
float Shorten(float value, int kept, RoundMode mode) {
    uint32_t bits = Bits(value);
    const uint32_t drop = 23 - kept, unit = 1u << drop, rest = bits & (unit - 1);
    if (rest == 0 || std::isnan(value) || std::isinf(value)) return value;
    const bool negative = (bits >> 31) != 0, odd = (bits & unit) != 0;
    bits -= rest;
    bool up = false;
    switch (mode) {
        case RoundMode::CAST_FLOOR: up = negative; break;
        case RoundMode::CAST_CEIL: up = !negative; break;
        case RoundMode::CAST_ROUND: up = rest >= unit / 2; break;
        case RoundMode::CAST_TRUNC: up = false; break;
        case RoundMode::CAST_ODD: up = !odd; break;
        default: up = rest > unit / 2 || (rest == unit / 2 && odd); break;
    }
    return FromBits(up ? bits + unit : bits);
}

half ToHalf(float value, RoundMode mode) {
    half out;
    const bool nearest = mode == RoundMode::CAST_RINT || mode == RoundMode::CAST_NONE;
    // Below the least normal half the places that are kept grow fewer; there all modes but the nearest are exact to
    // the half's own spacing by way of whole multiples of it.
    if (!nearest && std::fabs(value) < 6.103515625e-05f && value != 0) {
        const double steps = double(value) * 16777216.0;
        const double whole = mode == RoundMode::CAST_ODD ? steps : RoundTo(steps, mode);
        out.bits = FloatToHalf(static_cast<float>(whole / 16777216.0));
        return out;
    }
    out.bits = FloatToHalf(nearest ? value : Shorten(value, 10, mode));
    return out;
}

template <typename To> To Saturate(double value) {
    if (std::isnan(value)) return 0;
    const double low = static_cast<double>(std::numeric_limits<To>::min());
    const double high = static_cast<double>(std::numeric_limits<To>::max());
    if (value <= low) return std::numeric_limits<To>::min();
    if (value >= high) return std::numeric_limits<To>::max();
    return static_cast<To>(value);
}

template <typename T> T Load(const uint8_t* at) {
    T value;
    std::memcpy(&value, at, sizeof(T));
    return value;
}

double Widest(Type type, const uint8_t* at) {
    switch (type) {
        case Type::F32: return Load<float>(at);
        case Type::F16: return static_cast<float>(Load<half>(at));
        case Type::BF16: return ToFloat(Load<bfloat16_t>(at));
        case Type::I64: return static_cast<double>(Load<int64_t>(at));
        case Type::I32: return Load<int32_t>(at);
        case Type::U32: return Load<uint32_t>(at);
        case Type::I16: return Load<int16_t>(at);
        case Type::U8: return *at;
        case Type::I8: return static_cast<int8_t>(*at);
        default: return 0;
    }
}

template <typename T> void Keep(uint8_t* at, T value) { std::memcpy(at, &value, sizeof(T)); }

using Mode = RoundMode;
constexpr uint32_t Bit(Mode mode) { return 1u << static_cast<int>(mode); }
constexpr uint32_t ROUNDED = Bit(Mode::CAST_RINT) | Bit(Mode::CAST_FLOOR) | Bit(Mode::CAST_CEIL) |
                             Bit(Mode::CAST_ROUND) | Bit(Mode::CAST_TRUNC);
constexpr uint32_t PLAIN = Bit(Mode::CAST_NONE);

struct Path {
    Type from, to;
    uint32_t modes;
};
// The conversions that dav-2201 has, and the modes of each.
constexpr Path WAYS[] = {
    {Type::F16, Type::F32, PLAIN},  {Type::F32, Type::F16, ROUNDED | PLAIN | Bit(Mode::CAST_ODD)},
    {Type::F32, Type::F32, ROUNDED}, {Type::F32, Type::BF16, ROUNDED},
    {Type::BF16, Type::F32, PLAIN}, {Type::BF16, Type::I32, ROUNDED},
    {Type::F32, Type::I64, ROUNDED}, {Type::F32, Type::I32, ROUNDED},
    {Type::F32, Type::I16, ROUNDED}, {Type::F16, Type::I32, ROUNDED},
    {Type::F16, Type::I16, ROUNDED}, {Type::F16, Type::I8, ROUNDED | PLAIN},
    {Type::F16, Type::U8, ROUNDED | PLAIN}, {Type::U8, Type::F16, PLAIN},
    {Type::I8, Type::F16, PLAIN},   {Type::I16, Type::F16, ROUNDED | PLAIN},
    {Type::I16, Type::F32, PLAIN},  {Type::I32, Type::F32, ROUNDED | PLAIN},
    {Type::I32, Type::I64, PLAIN},  {Type::I32, Type::I16, PLAIN},
    {Type::I64, Type::I32, PLAIN},  {Type::I64, Type::F32, ROUNDED},
};
constexpr const char* TYPE_NAMES[] = {"int8_t", "uint8_t", "int16_t", "uint16_t", "half", "bfloat16_t", "int32_t",
                                      "uint32_t", "float", "int64_t", "uint64_t"};
constexpr const char* MODE_NAMES[] = {"CAST_NONE", "CAST_RINT", "CAST_FLOOR", "CAST_CEIL", "CAST_ROUND", "CAST_TRUNC",
                                      "CAST_ODD"};

void ConvertOne(Type from, Type to, RoundMode mode, const uint8_t* in, uint8_t* out) {
    if (from == Type::F32 && to == Type::F16) return Keep(out, ToHalf(Load<float>(in), mode));
    if (from == Type::F32 && to == Type::BF16) return Keep(out, ToBfloat16(Shorten(Load<float>(in), 7, mode)));
    if (from == Type::I64 && to == Type::I32) {
        const int64_t value = Load<int64_t>(in);
        return Keep(out, static_cast<int32_t>(std::min<int64_t>(std::max<int64_t>(value, INT32_MIN), INT32_MAX)));
    }
    if (from == Type::I32 && to == Type::I64) return Keep(out, static_cast<int64_t>(Load<int32_t>(in)));
    const double value = Widest(from, in);
    const double whole = mode == RoundMode::CAST_NONE ? std::nearbyint(value) : RoundTo(value, mode);
    switch (to) {
        case Type::F32:
            return Keep(out, from == Type::F32 ? static_cast<float>(RoundTo(value, mode)) : static_cast<float>(value));
        case Type::F16: return Keep(out, half(static_cast<float>(value)));
        case Type::I64: return Keep(out, Saturate<int64_t>(whole));
        case Type::I32: return Keep(out, Saturate<int32_t>(whole));
        case Type::I16: return Keep(out, Saturate<int16_t>(whole));
        case Type::I8: return Keep(out, Saturate<int8_t>(whole));
        case Type::U8: return Keep(out, Saturate<uint8_t>(whole));
        default: return;
    }
}

bool Holds(CMPMODE mode, double a, double b) {
    switch (mode) {
        case CMPMODE::LT: return a < b;
        case CMPMODE::GT: return a > b;
        case CMPMODE::EQ: return a == b;
        case CMPMODE::LE: return a <= b;
        case CMPMODE::GE: return a >= b;
        default: return a != b;
    }
}

}  // namespace

void Convert(const Operand& dst, const Operand& src, RoundMode mode, const Lanes& lanes, Where where) {
    Instruction it(PIPE_V, "Cast", where);
    const Path* way = std::find_if(std::begin(WAYS), std::end(WAYS),
                                  [&](const Path& way) { return way.from == src.type && way.to == dst.type; });
    const char *from = TYPE_NAMES[int(src.type)], *to = TYPE_NAMES[int(dst.type)];
    it.Require(way != std::end(WAYS), "%s to %s: dav-2201 has no such conversion", from, to);
    it.Require((way->modes & Bit(mode)) != 0, "%s to %s has no %s", from, to, MODE_NAMES[int(mode)]);
    it.RequireAligned(dst.at, 32, "the destination");
    it.RequireAligned(src.at, 32, "the source");
    const Operand* operands[] = {&dst, &src};
    const uint32_t in_size = SizeOf(src.type), out_size = SizeOf(dst.type);
    ForRuns<2>(it, operands, lanes, [&](const Run<2>& run) {
        const uint8_t* in = it.Read(src.at, run.at[1], run.count * in_size);
        uint8_t* out = it.Write(dst.at, run.at[0], run.count * out_size);
        // The three that carry a kernel's data have loops of their own, for the compiler to widen.
        if (src.type == Type::BF16 && dst.type == Type::F32 && in + run.count * 2 <= out)
            for (uint64_t i = 0; i < run.count; ++i) Keep(out + 4 * i, uint32_t(Load<uint16_t>(in + 2 * i)) << 16);
        else if (src.type == Type::F16 && dst.type == Type::F32 && in + run.count * 2 <= out)
            for (uint64_t i = 0; i < run.count; ++i) Keep(out + 4 * i, HalfToFloat(Load<uint16_t>(in + 2 * i)));
        else if (src.type == Type::F32 && dst.type == Type::BF16 && mode == RoundMode::CAST_RINT)
            for (uint64_t i = 0; i < run.count; ++i) Keep(out + 2 * i, FloatToBfloat(Load<float>(in + 4 * i)));
        else
            for (uint64_t i = 0; i < run.count; ++i)
                ConvertOne(src.type, dst.type, mode, in + i * in_size, out + i * out_size);
    });
    it.Takes(RepeatsOf(lanes, operands, 2) * cost::REPEAT);
}

void CompareInto(const Local& bits, const Operand& src0, const Operand* src1, double scalar, CMPMODE mode,
                 const Lanes& given, const char* name, Where where) {
    Instruction it(PIPE_V, name, where);
    it.RequireAligned(bits, 32, "the destination");
    it.RequireAligned(src0.at, 32, "the first source");
    if (src1 != nullptr) it.RequireAligned(src1->at, 32, "the second source");
    it.Require(src0.type != Type::I32 || mode == CMPMODE::EQ, "int32_t is compared for equality only");
    Lanes lanes = given;
    const uint32_t size = SizeOf(src0.type), per_repeat = 256 / size;
    if (lanes.form == Lanes::Form::Count)
        it.Require(lanes.count * size % 256 == 0, "%lu elements are no whole number of 256 bytes",
                   (unsigned long)lanes.count);
    // A mask does not reach a comparison: every lane of a repeat is compared.
    else lanes = Lanes::Leading(per_repeat, lanes.repeats);
    const Operand* operands[] = {&src0, src1};
    ForRuns<2>(it, operands, lanes, [&](const Run<2>& run) {
        const uint8_t* a = it.Read(src0.at, run.at[0], run.count * size);
        const uint8_t* b = src1 == nullptr ? nullptr : it.Read(src1->at, run.at[1], run.count * size);
        const uint64_t first = uint64_t(run.repeat) * per_repeat + run.lane;
        uint8_t* out = it.Write(bits, first / 8, (run.count + 7) / 8);
        for (uint64_t i = 0; i < run.count; ++i) {
            const bool holds = Holds(mode, Widest(src0.type, a + i * size),
                                     b == nullptr ? scalar : Widest(src0.type, b + i * size));
            out[i / 8] = static_cast<uint8_t>((out[i / 8] & ~(1u << (i % 8))) | unsigned(holds) << (i % 8));
        }
    });
    it.Takes(RepeatsOf(lanes, operands, 2) * cost::REPEAT);
}

void CompareToMask(const Operand& src0, const Operand& src1, CMPMODE mode, const Lanes& lanes, Where where) {
    Instruction it(PIPE_V, "Compare", where);
    it.RequireAligned(src0.at, 32, "the first source");
    it.RequireAligned(src1.at, 32, "the second source");
    uint64_t* mask = Me().compare;
    mask[0] = mask[1] = 0;
    const Operand* operands[] = {&src0, &src1};
    const uint32_t size = SizeOf(src0.type);
    ForRuns<2>(it, operands, lanes, [&](const Run<2>& run) {
        const uint8_t *a = it.Read(src0.at, run.at[0], run.count * size), *b = it.Read(src1.at, run.at[1], run.count * size);
        for (uint64_t i = 0; i < run.count; ++i)
            if (Holds(mode, Widest(src0.type, a + i * size), Widest(src0.type, b + i * size)))
                mask[(run.lane + i) / 64] |= 1ull << ((run.lane + i) % 64);
    });
    it.Takes(cost::REPEAT);
}

void SelectBy(const Operand& dst, const Local& bits, const Operand& src0, const Operand* src1, double scalar,
              SELMODE mode, const Lanes& lanes, Where where) {
    constexpr uint32_t SCRATCH = 184 * 1024;
    Instruction it(PIPE_V, "Select", where);
    const bool scalar_mode = mode == SELMODE::VSEL_TENSOR_SCALAR_MODE;
    it.Require((src1 == nullptr) == scalar_mode, "a scalar goes with VSEL_TENSOR_SCALAR_MODE, a tensor with the others");
    it.RequireAligned(dst.at, 32, "the destination");
    it.RequireAligned(bits, 32, "the mask");
    it.RequireAligned(src0.at, 32, "the first source");
    if (src1 != nullptr) it.RequireAligned(src1->at, 32, "the second source");
    // The vendor's implementation keeps its operands in the last 8 KiB of UB.
    it.Spoil(Local{Memory::UB, TPosition::VECCALC, SCRATCH, SCRATCH + 32, nullptr}, 0, 32);
    const uint32_t size = SizeOf(dst.type), per_repeat = 256 / size;
    const bool same_mask = mode == SELMODE::VSEL_CMPMASK_SPR;
    const Operand* operands[] = {&dst, &src0, src1};
    const half narrow(static_cast<float>(scalar));
    const float wide = static_cast<float>(scalar);
    ForRuns<3>(it, operands, lanes, [&](const Run<3>& run) {
        const uint8_t* a = it.Read(src0.at, run.at[1], run.count * size);
        const uint8_t* b = src1 == nullptr ? nullptr : it.Read(src1->at, run.at[2], run.count * size);
        uint8_t* out = it.Write(dst.at, run.at[0], run.count * size);
        for (uint64_t i = 0; i < run.count; ++i) {
            uint64_t place = run.lane + i;
            if (same_mask) place %= per_repeat;
            else place += uint64_t(run.repeat) * per_repeat;
            const bool first = (*it.Read(bits, place / 8, 1) >> (place % 8) & 1) != 0;
            const uint8_t* other = b != nullptr ? b + i * size
                                   : size == 2  ? reinterpret_cast<const uint8_t*>(&narrow)
                                                : reinterpret_cast<const uint8_t*>(&wide);
            std::memcpy(out + i * size, first ? a + i * size : other, size);
        }
    });
    it.Takes(RepeatsOf(lanes, operands, 3) * cost::REPEAT);
}

}  // namespace AscendC::twin
