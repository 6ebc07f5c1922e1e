// What the lanes of the vector unit compute.
#include "../vector.h"

#include <algorithm>
#include <cmath>

#include "core.h"
#include "cost.h"
#include "lanes.h"

namespace AscendC::twin {

namespace {

// How an element is held while it is computed with: 16-bit floats as f32, whose result is rounded once.
template <typename T> struct Wide {
    using type = T;
    static T Get(T value) { return value; }
    static T Put(T value) { return value; }
};
template <> struct Wide<half> {
    using type = float;
    static float Get(half value) { return HalfToFloat(value.bits); }
    static half Put(float value) {
        half out;
        out.bits = FloatToHalf(value);
        return out;
    }
};
template <> struct Wide<bfloat16_t> {
    using type = float;
    static float Get(bfloat16_t value) { return ToFloat(value); }
    static bfloat16_t Put(float value) { return ToBfloat16(value); }
};

template <typename T, typename F> void Each1(T* dst, const T* a, uint64_t n, F f) {
    for (uint64_t i = 0; i < n; ++i) dst[i] = Wide<T>::Put(f(Wide<T>::Get(a[i])));
}
template <typename T, typename F> void Each2(T* dst, const T* a, const T* b, uint64_t n, F f) {
    for (uint64_t i = 0; i < n; ++i) dst[i] = Wide<T>::Put(f(Wide<T>::Get(a[i]), Wide<T>::Get(b[i])));
}
template <typename T, typename U, typename F> void Each3(T* dst, const U* a, const U* b, uint64_t n, F f) {
    for (uint64_t i = 0; i < n; ++i)
        dst[i] = Wide<T>::Put(f(Wide<T>::Get(dst[i]), Wide<U>::Get(a[i]), Wide<U>::Get(b[i])));
}
template <typename T, typename U, typename F> void EachInto(T* dst, const U* a, uint64_t n, F f) {
    for (uint64_t i = 0; i < n; ++i) dst[i] = Wide<T>::Put(f(Wide<T>::Get(dst[i]), Wide<U>::Get(a[i])));
}

// Whole numbers wrap around, in their unsigned twin where C++ would not let them.
template <typename W> W Plus(W a, W b) {
    if constexpr (std::is_integral_v<W>) return static_cast<W>(uint64_t(a) + uint64_t(b));
    else return a + b;
}
template <typename W> W Minus(W a, W b) {
    if constexpr (std::is_integral_v<W>) return static_cast<W>(uint64_t(a) - uint64_t(b));
    else return a - b;
}
template <typename W> W Times(W a, W b) {
    if constexpr (std::is_integral_v<W>) return static_cast<W>(uint64_t(a) * uint64_t(b));
    else return a * b;
}
// A NaN on either side is the result, as on the card's maximum and minimum.
template <typename W> W Most(W a, W b) {
    if constexpr (!std::is_integral_v<W>)
        if (a != a || b != b) return a + b;
    return a > b ? a : b;
}
template <typename W> W Least(W a, W b) {
    if constexpr (!std::is_integral_v<W>)
        if (a != a || b != b) return a + b;
    return a < b ? a : b;
}

template <typename T> void Compute(Op op, T* dst, const T* a, const T* b, double scalar, uint64_t n) {
    using W = typename Wide<T>::type;
    const W s = static_cast<W>(scalar);
    switch (op) {
        case Op::Add: return Each2(dst, a, b, n, Plus<W>);
        case Op::Sub: return Each2(dst, a, b, n, Minus<W>);
        case Op::Mul: return Each2(dst, a, b, n, Times<W>);
        case Op::Max: return Each2(dst, a, b, n, Most<W>);
        case Op::Min: return Each2(dst, a, b, n, Least<W>);
        case Op::AddRelu: return Each2(dst, a, b, n, [](W x, W y) { return Most(Plus(x, y), W(0)); });
        case Op::SubRelu: return Each2(dst, a, b, n, [](W x, W y) { return Most(Minus(x, y), W(0)); });
        case Op::Relu: return Each1(dst, a, n, [](W x) { return Most(x, W(0)); });
        case Op::Adds: return Each1(dst, a, n, [s](W x) { return Plus(x, s); });
        case Op::Muls: return Each1(dst, a, n, [s](W x) { return Times(x, s); });
        case Op::Maxs: return Each1(dst, a, n, [s](W x) { return Most(x, s); });
        case Op::Mins: return Each1(dst, a, n, [s](W x) { return Least(x, s); });
        case Op::Move: std::memmove(dst, a, n * sizeof(T)); return;
        case Op::Duplicate: std::fill(dst, dst + n, Wide<T>::Put(s)); return;
        default: break;
    }
    if constexpr (std::is_integral_v<T>) {
        const int shift = static_cast<int>(scalar);
        switch (op) {
            case Op::And: return Each2(dst, a, b, n, [](W x, W y) { return W(x & y); });
            case Op::Or: return Each2(dst, a, b, n, [](W x, W y) { return W(x | y); });
            case Op::Not: return Each1(dst, a, n, [](W x) { return W(~x); });
            case Op::ShiftLeft: return Each1(dst, a, n, [shift](W x) { return W(uint64_t(x) << shift); });
            case Op::ShiftRight: return Each1(dst, a, n, [shift](W x) { return W(x >> shift); });
            default: return;
        }
    } else {
        switch (op) {
            case Op::Div: return Each2(dst, a, b, n, [](W x, W y) { return x / y; });
            case Op::Exp: return Each1(dst, a, n, [](W x) { return std::exp(x); });
            case Op::Ln: return Each1(dst, a, n, [](W x) { return std::log(x); });
            case Op::Abs: return Each1(dst, a, n, [](W x) { return std::fabs(x); });
            case Op::Reciprocal: return Each1(dst, a, n, [](W x) { return 1 / x; });
            case Op::Rsqrt: return Each1(dst, a, n, [](W x) { return 1 / std::sqrt(x); });
            case Op::Sqrt: return Each1(dst, a, n, [](W x) { return std::sqrt(x); });
            case Op::LeakyRelu: return Each1(dst, a, n, [s](W x) { return x >= 0 ? x : x * s; });
            case Op::FusedMulAdd: return Each3(dst, a, b, n, [](W d, W x, W y) { return x * d + y; });
            case Op::FusedMulAddRelu: return Each3(dst, a, b, n, [](W d, W x, W y) { return Most(x * d + y, W(0)); });
            case Op::MulAddDst: return Each3(dst, a, b, n, [](W d, W x, W y) { return x * y + d; });
            case Op::Axpy: return EachInto(dst, a, n, [s](W d, W x) { return x * s + d; });
            default: return;
        }
    }
}

void ComputeWidening(Op op, float* dst, const half* a, const half* b, double scalar, uint64_t n) {
    const float s = static_cast<float>(scalar);
    if (op == Op::MulAddDst) return Each3(dst, a, b, n, [](float d, float x, float y) { return x * y + d; });
    EachInto(dst, a, n, [s](float d, float x) { return x * s + d; });
}

bool ReadsTarget(Op op) {
    return op == Op::FusedMulAdd || op == Op::FusedMulAddRelu || op == Op::MulAddDst || op == Op::Axpy;
}

double CyclesOf(Op op) {
    switch (op) {
        case Op::Div: case Op::Exp: case Op::Ln: case Op::Reciprocal: case Op::Rsqrt: case Op::Sqrt:
            return cost::REPEAT_SLOW;
        default: return cost::REPEAT;
    }
}

template <typename T> void ComputeAt(Op op, uint8_t* dst, const uint8_t* a, const uint8_t* b, double s, uint64_t n) {
    Compute<T>(op, reinterpret_cast<T*>(dst), reinterpret_cast<const T*>(a), reinterpret_cast<const T*>(b), s, n);
}

void ComputeAs(Type type, Op op, uint8_t* dst, const uint8_t* a, const uint8_t* b, double scalar, uint64_t n) {
    switch (type) {
        case Type::F32: return ComputeAt<float>(op, dst, a, b, scalar, n);
        case Type::F16: return ComputeAt<half>(op, dst, a, b, scalar, n);
        case Type::BF16: return ComputeAt<bfloat16_t>(op, dst, a, b, scalar, n);
        case Type::I32: return ComputeAt<int32_t>(op, dst, a, b, scalar, n);
        case Type::U32: return ComputeAt<uint32_t>(op, dst, a, b, scalar, n);
        case Type::I16: return ComputeAt<int16_t>(op, dst, a, b, scalar, n);
        case Type::U16: return ComputeAt<uint16_t>(op, dst, a, b, scalar, n);
        default: return;
    }
}

}  // namespace

void Elementwise(Op op, const char* name, const Operand& dst, const Operand* src0, const Operand* src1, double scalar,
                 const Lanes& lanes, Where where) {
    Instruction it(PIPE_V, name, where);
    it.RequireAligned(dst.at, 32, "the destination");
    if (src0 != nullptr) it.RequireAligned(src0->at, 32, "the first source");
    if (src1 != nullptr) it.RequireAligned(src1->at, 32, "the second source");
    const Operand* operands[] = {&dst, src0, src1};
    const bool widens = src0 != nullptr && src0->type != dst.type;
    ForRuns<3>(it, operands, lanes, [&](const Run<3>& run) {
        const uint8_t* a = src0 == nullptr ? nullptr : it.Read(src0->at, run.at[1], run.count * SizeOf(src0->type));
        const uint8_t* b = src1 == nullptr ? nullptr : it.Read(src1->at, run.at[2], run.count * SizeOf(src1->type));
        const uint64_t bytes = run.count * SizeOf(dst.type);
        if (ReadsTarget(op)) it.Read(dst.at, run.at[0], bytes);
        uint8_t* out = it.Write(dst.at, run.at[0], bytes);
        if (widens)
            ComputeWidening(op, reinterpret_cast<float*>(out), reinterpret_cast<const half*>(a),
                            reinterpret_cast<const half*>(b), scalar, run.count);
        else ComputeAs(dst.type, op, out, a, b, scalar, run.count);
    });
    it.Takes(RepeatsOf(lanes, operands, 3) * CyclesOf(op));
}

void CountUp(const Operand& dst, double first, const Lanes& lanes, Where where) {
    Instruction it(PIPE_V, "CreateVecIndex", where);
    it.RequireAligned(dst.at, 32, "the destination");
    const Operand* operands[] = {&dst};
    double value = first;
    ForRuns<1>(it, operands, lanes, [&](const Run<1>& run) {
        uint8_t* out = it.Write(dst.at, run.at[0], run.count * SizeOf(dst.type));
        const uint32_t size = SizeOf(dst.type);
        for (uint64_t i = 0; i < run.count; ++i, value += 1)
            ComputeAs(dst.type, Op::Duplicate, out + i * size, nullptr, nullptr, value, 1);
    });
    it.Takes(RepeatsOf(lanes, operands, 1) * 2);
}

void SetMask(uint64_t high, uint64_t low) {
    Me().mask[0] = low;
    Me().mask[1] = high;
}

void SetMaskMode(bool counter) { Me().counter_mode = counter; }

}  // namespace AscendC::twin
