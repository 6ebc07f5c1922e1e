// Instructions of the vector unit that work lane by lane. Each has the forms of the vendor's interface: over a count of
// elements, and over repeats of 256 bytes under a mask, given as bits or as a number of leading lanes. A type that
// dav-2201 has no instruction for does not compile.
#pragma once

#include "copy.h"

namespace AscendC {

namespace twin {

enum class Op : uint8_t {
    Add, Sub, Mul, Div, Max, Min, And, Or, AddRelu, SubRelu, FusedMulAdd, FusedMulAddRelu, MulAddDst,
    Relu, Exp, Ln, Abs, Reciprocal, Rsqrt, Sqrt, Not, Move,
    Adds, Muls, Maxs, Mins, ShiftLeft, ShiftRight, LeakyRelu, Axpy, Duplicate,
};

/// A tensor as an instruction walks it: strides in blocks of 32 bytes from block to block and from repeat to repeat.
struct Operand {
    Local at;
    Type type = Type::U8;
    uint16_t block = 1, repeat = 8;
};
template <typename T> Operand Walk(const LocalTensor<T>& tensor, uint16_t block = 1, uint16_t repeat = 8) {
    return {tensor.view, typeOf<T>, block, repeat};
}

/// The elements that an instruction works on.
struct Lanes {
    enum class Form : uint8_t { Count, Bits, Leading, Register } form;
    uint64_t count = 0;
    uint64_t bits[2] = {0, 0};
    uint32_t repeats = 1;

    static Lanes Count(int64_t count) { return {Form::Count, static_cast<uint64_t>(count)}; }
    static Lanes Leading(uint64_t mask, uint32_t repeats, bool set = true) {
        return {set ? Form::Leading : Form::Register, mask, {0, 0}, repeats};
    }
    static Lanes Bits(const uint64_t mask[], uint32_t repeats, bool set = true) {
        if (!set) return {Form::Register, 0, {0, 0}, repeats};
        return {Form::Bits, 0, {mask[0], mask[1]}, repeats};
    }
};

void Elementwise(Op op, const char* name, const Operand& dst, const Operand* src0, const Operand* src1, double scalar,
                 const Lanes& lanes, Where where);
void Convert(const Operand& dst, const Operand& src, RoundMode mode, const Lanes& lanes, Where where);
/// `bits`: one bit an element, without gaps.
void CompareInto(const Local& bits, const Operand& src0, const Operand* src1, double scalar, CMPMODE mode,
                 const Lanes& lanes, const char* name, Where where);
void CompareToMask(const Operand& src0, const Operand& src1, CMPMODE mode, const Lanes& lanes, Where where);
void SelectBy(const Operand& dst, const Local& bits, const Operand& src0, const Operand* src1, double scalar,
              SELMODE mode, const Lanes& lanes, Where where);
void SetMask(uint64_t high, uint64_t low);
void SetMaskMode(bool counter);
void CountUp(const Operand& dst, double first, const Lanes& lanes, Where where);

template <typename T> double Scalar(T value) { return static_cast<double>(static_cast<float>(value)); }
template <> inline double Scalar(int32_t value) { return value; }
template <> inline double Scalar(uint32_t value) { return value; }
template <> inline double Scalar(bfloat16_t value) { return ToFloat(value); }

}  // namespace twin

#define NPU_TWIN_BINARY(Name, ...)                                                                                     \
    template <typename T>                                                                                              \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1,                       \
              const int32_t& count, twin::Where where = twin::Where::Here()) {                                         \
        static_assert(twin::oneOf<T, __VA_ARGS__>, #Name " of this type: dav-2201 has no such instruction");           \
        const twin::Operand a = twin::Walk(src0), b = twin::Walk(src1);                                                \
        twin::Elementwise(twin::Op::Name, #Name, twin::Walk(dst), &a, &b, 0, twin::Lanes::Count(count), where);        \
    }                                                                                                                  \
    template <typename T, bool isSetMask = true>                                                                       \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, uint64_t mask,        \
              const uint8_t repeats, const BinaryRepeatParams& p, twin::Where where = twin::Where::Here()) {           \
        static_assert(twin::oneOf<T, __VA_ARGS__>, #Name " of this type: dav-2201 has no such instruction");           \
        const twin::Operand a = twin::Walk(src0, p.src0BlkStride, p.src0RepStride);                                    \
        const twin::Operand b = twin::Walk(src1, p.src1BlkStride, p.src1RepStride);                                    \
        twin::Elementwise(twin::Op::Name, #Name, twin::Walk(dst, p.dstBlkStride, p.dstRepStride), &a, &b, 0,           \
                          twin::Lanes::Leading(mask, repeats, isSetMask), where);                                      \
    }                                                                                                                  \
    template <typename T, bool isSetMask = true>                                                                       \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, uint64_t mask[],      \
              const uint8_t repeats, const BinaryRepeatParams& p, twin::Where where = twin::Where::Here()) {           \
        static_assert(twin::oneOf<T, __VA_ARGS__>, #Name " of this type: dav-2201 has no such instruction");           \
        const twin::Operand a = twin::Walk(src0, p.src0BlkStride, p.src0RepStride);                                    \
        const twin::Operand b = twin::Walk(src1, p.src1BlkStride, p.src1RepStride);                                    \
        twin::Elementwise(twin::Op::Name, #Name, twin::Walk(dst, p.dstBlkStride, p.dstRepStride), &a, &b, 0,           \
                          twin::Lanes::Bits(mask, repeats, isSetMask), where);                                         \
    }
NPU_TWIN_BINARY(Add, half, float, int16_t, int32_t)
NPU_TWIN_BINARY(Sub, half, float, int16_t, int32_t)
NPU_TWIN_BINARY(Mul, half, float, int16_t, int32_t)
NPU_TWIN_BINARY(Div, half, float)
NPU_TWIN_BINARY(Max, half, float, int16_t, int32_t)
NPU_TWIN_BINARY(Min, half, float, int16_t, int32_t)
// The vector unit ands and ors 16 bits; the counted form takes 32 bits as two lanes each.
NPU_TWIN_BINARY(And, int16_t, uint16_t, int32_t, uint32_t)
NPU_TWIN_BINARY(Or, int16_t, uint16_t, int32_t, uint32_t)
NPU_TWIN_BINARY(AddRelu, half, float, int16_t)
NPU_TWIN_BINARY(SubRelu, half, float, int16_t)
NPU_TWIN_BINARY(FusedMulAdd, half, float)
NPU_TWIN_BINARY(FusedMulAddRelu, half, float)
#undef NPU_TWIN_BINARY

#define NPU_TWIN_UNARY(Name, ...)                                                                                      \
    template <typename T>                                                                                              \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t& count,                              \
              twin::Where where = twin::Where::Here()) {                                                               \
        static_assert(twin::oneOf<T, __VA_ARGS__>, #Name " of this type: dav-2201 has no such instruction");           \
        const twin::Operand a = twin::Walk(src);                                                                       \
        twin::Elementwise(twin::Op::Name, #Name, twin::Walk(dst), &a, nullptr, 0, twin::Lanes::Count(count), where);   \
    }                                                                                                                  \
    template <typename T, bool isSetMask = true>                                                                       \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint64_t mask, const uint8_t repeats,              \
              const UnaryRepeatParams& p, twin::Where where = twin::Where::Here()) {                                   \
        static_assert(twin::oneOf<T, __VA_ARGS__>, #Name " of this type: dav-2201 has no such instruction");           \
        const twin::Operand a = twin::Walk(src, p.srcBlkStride, p.srcRepStride);                                       \
        twin::Elementwise(twin::Op::Name, #Name, twin::Walk(dst, p.dstBlkStride, p.dstRepStride), &a, nullptr, 0,      \
                          twin::Lanes::Leading(mask, repeats, isSetMask), where);                                      \
    }                                                                                                                  \
    template <typename T, bool isSetMask = true>                                                                       \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, uint64_t mask[], const uint8_t repeats,            \
              const UnaryRepeatParams& p, twin::Where where = twin::Where::Here()) {                                   \
        static_assert(twin::oneOf<T, __VA_ARGS__>, #Name " of this type: dav-2201 has no such instruction");           \
        const twin::Operand a = twin::Walk(src, p.srcBlkStride, p.srcRepStride);                                       \
        twin::Elementwise(twin::Op::Name, #Name, twin::Walk(dst, p.dstBlkStride, p.dstRepStride), &a, nullptr, 0,      \
                          twin::Lanes::Bits(mask, repeats, isSetMask), where);                                         \
    }
NPU_TWIN_UNARY(Relu, half, float, int32_t)
NPU_TWIN_UNARY(Exp, half, float)
NPU_TWIN_UNARY(Ln, half, float)
NPU_TWIN_UNARY(Abs, half, float)
NPU_TWIN_UNARY(Reciprocal, half, float)
NPU_TWIN_UNARY(Rsqrt, half, float)
NPU_TWIN_UNARY(Sqrt, half, float)
NPU_TWIN_UNARY(Not, int16_t, uint16_t)
#undef NPU_TWIN_UNARY

#define NPU_TWIN_SCALAR(Name, ...)                                                                                     \
    template <typename T, bool isSetMask = true>                                                                       \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalar, const int32_t& count,             \
              twin::Where where = twin::Where::Here()) {                                                               \
        static_assert(twin::oneOf<T, __VA_ARGS__>, #Name " of this type: dav-2201 has no such instruction");           \
        const twin::Operand a = twin::Walk(src);                                                                       \
        twin::Elementwise(twin::Op::Name, #Name, twin::Walk(dst), &a, nullptr, twin::Scalar(scalar),                   \
                          twin::Lanes::Count(count), where);                                                           \
    }                                                                                                                  \
    template <typename T, bool isSetMask = true>                                                                       \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalar, uint64_t mask,                    \
              const uint8_t repeats, const UnaryRepeatParams& p, twin::Where where = twin::Where::Here()) {            \
        static_assert(twin::oneOf<T, __VA_ARGS__>, #Name " of this type: dav-2201 has no such instruction");           \
        const twin::Operand a = twin::Walk(src, p.srcBlkStride, p.srcRepStride);                                       \
        twin::Elementwise(twin::Op::Name, #Name, twin::Walk(dst, p.dstBlkStride, p.dstRepStride), &a, nullptr,         \
                          twin::Scalar(scalar), twin::Lanes::Leading(mask, repeats, isSetMask), where);                \
    }                                                                                                                  \
    template <typename T, bool isSetMask = true>                                                                       \
    void Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const T& scalar, uint64_t mask[],                  \
              const uint8_t repeats, const UnaryRepeatParams& p, twin::Where where = twin::Where::Here()) {            \
        static_assert(twin::oneOf<T, __VA_ARGS__>, #Name " of this type: dav-2201 has no such instruction");           \
        const twin::Operand a = twin::Walk(src, p.srcBlkStride, p.srcRepStride);                                       \
        twin::Elementwise(twin::Op::Name, #Name, twin::Walk(dst, p.dstBlkStride, p.dstRepStride), &a, nullptr,         \
                          twin::Scalar(scalar), twin::Lanes::Bits(mask, repeats, isSetMask), where);                   \
    }
NPU_TWIN_SCALAR(Adds, half, float, int16_t, int32_t)
NPU_TWIN_SCALAR(Muls, half, float, int16_t, int32_t)
NPU_TWIN_SCALAR(Maxs, half, float, int16_t, int32_t)
NPU_TWIN_SCALAR(Mins, half, float, int16_t, int32_t)
NPU_TWIN_SCALAR(ShiftLeft, uint16_t, uint32_t, int16_t, int32_t)
NPU_TWIN_SCALAR(ShiftRight, uint16_t, uint32_t, int16_t, int32_t)
NPU_TWIN_SCALAR(LeakyRelu, half, float)
#undef NPU_TWIN_SCALAR

namespace twin {
template <typename T, typename U>
inline constexpr bool widens =
    (std::is_same_v<T, U> && oneOf<T, half, float>) || (std::is_same_v<T, float> && std::is_same_v<U, half>);
}

/// dst = src0 · src1 + dst
template <typename T, typename U>
void MulAddDst(const LocalTensor<T>& dst, const LocalTensor<U>& src0, const LocalTensor<U>& src1, const int32_t& count,
               twin::Where where = twin::Where::Here()) {
    static_assert(twin::widens<T, U>, "MulAddDst of these types: dav-2201 has no such instruction");
    const twin::Operand a = twin::Walk(src0), b = twin::Walk(src1);
    twin::Elementwise(twin::Op::MulAddDst, "MulAddDst", twin::Walk(dst), &a, &b, 0, twin::Lanes::Count(count), where);
}
template <typename T, typename U, bool isSetMask = true>
void MulAddDst(const LocalTensor<T>& dst, const LocalTensor<U>& src0, const LocalTensor<U>& src1, uint64_t mask,
               const uint8_t repeats, const BinaryRepeatParams& p, twin::Where where = twin::Where::Here()) {
    static_assert(twin::widens<T, U>, "MulAddDst of these types: dav-2201 has no such instruction");
    const twin::Operand a = twin::Walk(src0, p.src0BlkStride, p.src0RepStride);
    const twin::Operand b = twin::Walk(src1, p.src1BlkStride, p.src1RepStride);
    twin::Elementwise(twin::Op::MulAddDst, "MulAddDst", twin::Walk(dst, p.dstBlkStride, p.dstRepStride), &a, &b, 0,
                      twin::Lanes::Leading(mask, repeats, isSetMask), where);
}

/// dst = src · scalar + dst
template <typename T, typename U>
void Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const U& scalar, const int32_t& count,
          twin::Where where = twin::Where::Here()) {
    static_assert(twin::widens<T, U>, "Axpy of these types: dav-2201 has no such instruction");
    const twin::Operand a = twin::Walk(src);
    twin::Elementwise(twin::Op::Axpy, "Axpy", twin::Walk(dst), &a, nullptr, twin::Scalar(scalar),
                      twin::Lanes::Count(count), where);
}
template <typename T, typename U, bool isSetMask = true>
void Axpy(const LocalTensor<T>& dst, const LocalTensor<U>& src, const U& scalar, uint64_t mask, const uint8_t repeats,
          const UnaryRepeatParams& p, twin::Where where = twin::Where::Here()) {
    static_assert(twin::widens<T, U>, "Axpy of these types: dav-2201 has no such instruction");
    const twin::Operand a = twin::Walk(src, p.srcBlkStride, p.srcRepStride);
    twin::Elementwise(twin::Op::Axpy, "Axpy", twin::Walk(dst, p.dstBlkStride, p.dstRepStride), &a, nullptr,
                      twin::Scalar(scalar), twin::Lanes::Leading(mask, repeats, isSetMask), where);
}

template <typename T>
void Duplicate(const LocalTensor<T>& dst, const T& scalar, const int32_t& count,
               twin::Where where = twin::Where::Here()) {
    static_assert(twin::oneOf<T, half, bfloat16_t, float, int16_t, uint16_t, int32_t, uint32_t>,
                  "Duplicate of this type: dav-2201 has no such instruction");
    twin::Elementwise(twin::Op::Duplicate, "Duplicate", twin::Walk(dst), nullptr, nullptr, twin::Scalar(scalar),
                      twin::Lanes::Count(count), where);
}
template <typename T, bool isSetMask = true>
void Duplicate(const LocalTensor<T>& dst, const T& scalar, uint64_t mask, const uint8_t repeats,
               const uint16_t blockStride, const uint8_t repeatStride, twin::Where where = twin::Where::Here()) {
    twin::Elementwise(twin::Op::Duplicate, "Duplicate", twin::Walk(dst, blockStride, repeatStride), nullptr, nullptr,
                      twin::Scalar(scalar), twin::Lanes::Leading(mask, repeats, isSetMask), where);
}
template <typename T, bool isSetMask = true>
void Duplicate(const LocalTensor<T>& dst, const T& scalar, uint64_t mask[], const uint8_t repeats,
               const uint16_t blockStride, const uint8_t repeatStride, twin::Where where = twin::Where::Here()) {
    twin::Elementwise(twin::Op::Duplicate, "Duplicate", twin::Walk(dst, blockStride, repeatStride), nullptr, nullptr,
                      twin::Scalar(scalar), twin::Lanes::Bits(mask, repeats, isSetMask), where);
}

template <typename T, bool isSetMask = true>
void Copy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint64_t mask, const uint8_t repeats,
          const CopyRepeatParams& p, twin::Where where = twin::Where::Here()) {
    const twin::Operand a = twin::Walk(src, p.srcStride, p.srcRepeatSize);
    twin::Elementwise(twin::Op::Move, "Copy", twin::Walk(dst, p.dstStride, p.dstRepeatSize), &a, nullptr, 0,
                      twin::Lanes::Leading(mask, repeats, isSetMask), where);
}
template <typename T, bool isSetMask = true>
void Copy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint64_t mask[], const uint8_t repeats,
          const CopyRepeatParams& p, twin::Where where = twin::Where::Here()) {
    const twin::Operand a = twin::Walk(src, p.srcStride, p.srcRepeatSize);
    twin::Elementwise(twin::Op::Move, "Copy", twin::Walk(dst, p.dstStride, p.dstRepeatSize), &a, nullptr, 0,
                      twin::Lanes::Bits(mask, repeats, isSetMask), where);
}

template <typename T, typename U>
void Cast(const LocalTensor<T>& dst, const LocalTensor<U>& src, const RoundMode& mode, const uint32_t count,
          twin::Where where = twin::Where::Here()) {
    twin::Convert(twin::Walk(dst), twin::Walk(src), mode, twin::Lanes::Count(count), where);
}
template <typename T, typename U, bool isSetMask = true>
void Cast(const LocalTensor<T>& dst, const LocalTensor<U>& src, const RoundMode& mode, const uint64_t mask,
          const uint8_t repeats, const UnaryRepeatParams& p, twin::Where where = twin::Where::Here()) {
    twin::Convert(twin::Walk(dst, p.dstBlkStride, p.dstRepStride), twin::Walk(src, p.srcBlkStride, p.srcRepStride),
                  mode, twin::Lanes::Leading(mask, repeats, isSetMask), where);
}
template <typename T, typename U, bool isSetMask = true>
void Cast(const LocalTensor<T>& dst, const LocalTensor<U>& src, const RoundMode& mode, const uint64_t mask[],
          const uint8_t repeats, const UnaryRepeatParams& p, twin::Where where = twin::Where::Here()) {
    twin::Convert(twin::Walk(dst, p.dstBlkStride, p.dstRepStride), twin::Walk(src, p.srcBlkStride, p.srcRepStride),
                  mode, twin::Lanes::Bits(mask, repeats, isSetMask), where);
}

template <typename T, typename U>
void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, CMPMODE mode,
             uint32_t count, twin::Where where = twin::Where::Here()) {
    static_assert(twin::oneOf<T, half, float, int32_t>, "Compare of this type: dav-2201 has no such instruction");
    const twin::Operand b = twin::Walk(src1);
    twin::CompareInto(dst.view, twin::Walk(src0), &b, 0, mode, twin::Lanes::Count(count), "Compare", where);
}
template <typename T, typename U, bool isSetMask = true>
void Compare(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const LocalTensor<T>& src1, CMPMODE mode,
             const uint64_t mask, uint8_t repeats, const BinaryRepeatParams& p,
             twin::Where where = twin::Where::Here()) {
    static_assert(twin::oneOf<T, half, float, int32_t>, "Compare of this type: dav-2201 has no such instruction");
    const twin::Operand b = twin::Walk(src1, p.src1BlkStride, p.src1RepStride);
    twin::CompareInto(dst.view, twin::Walk(src0, p.src0BlkStride, p.src0RepStride), &b, 0, mode,
                      twin::Lanes::Leading(mask, repeats, isSetMask), "Compare", where);
}
template <typename T, bool isSetMask = true>
void Compare(const LocalTensor<T>& src0, const LocalTensor<T>& src1, CMPMODE mode, const uint64_t mask,
             const BinaryRepeatParams& p, twin::Where where = twin::Where::Here()) {
    static_assert(twin::oneOf<T, half, float, int32_t>, "Compare of this type: dav-2201 has no such instruction");
    twin::CompareToMask(twin::Walk(src0, p.src0BlkStride, p.src0RepStride),
                        twin::Walk(src1, p.src1BlkStride, p.src1RepStride), mode,
                        twin::Lanes::Leading(mask, 1, isSetMask), where);
}
template <typename T, typename U>
void CompareScalar(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const T src1, CMPMODE mode, uint32_t count,
                   twin::Where where = twin::Where::Here()) {
    static_assert(twin::oneOf<T, half, float, int32_t>, "CompareScalar of this type: dav-2201 has no such instruction");
    twin::CompareInto(dst.view, twin::Walk(src0), nullptr, twin::Scalar(src1), mode, twin::Lanes::Count(count),
                      "CompareScalar", where);
}
template <typename T, typename U, bool isSetMask = true>
void CompareScalar(const LocalTensor<U>& dst, const LocalTensor<T>& src0, const T src1, CMPMODE mode,
                   const uint64_t mask, uint8_t repeats, const UnaryRepeatParams& p,
                   twin::Where where = twin::Where::Here()) {
    static_assert(twin::oneOf<T, half, float, int32_t>, "CompareScalar of this type: dav-2201 has no such instruction");
    twin::CompareInto(dst.view, twin::Walk(src0, p.srcBlkStride, p.srcRepStride), nullptr, twin::Scalar(src1), mode,
                      twin::Lanes::Leading(mask, repeats, isSetMask), "CompareScalar", where);
}

template <typename T, typename U>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& bits, const LocalTensor<T>& src0,
            const LocalTensor<T>& src1, SELMODE mode, uint32_t count, twin::Where where = twin::Where::Here()) {
    static_assert(twin::oneOf<T, half, float>, "Select of this type: dav-2201 has no such instruction");
    const twin::Operand b = twin::Walk(src1);
    twin::SelectBy(twin::Walk(dst), bits.view, twin::Walk(src0), &b, 0, mode, twin::Lanes::Count(count), where);
}
template <typename T, typename U>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& bits, const LocalTensor<T>& src0, T src1, SELMODE mode,
            uint32_t count, twin::Where where = twin::Where::Here()) {
    static_assert(twin::oneOf<T, half, float>, "Select of this type: dav-2201 has no such instruction");
    twin::SelectBy(twin::Walk(dst), bits.view, twin::Walk(src0), nullptr, twin::Scalar(src1), mode,
                   twin::Lanes::Count(count), where);
}
template <typename T, typename U, bool isSetMask = true>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& bits, const LocalTensor<T>& src0,
            const LocalTensor<T>& src1, SELMODE mode, uint64_t mask, uint8_t repeats, const BinaryRepeatParams& p,
            twin::Where where = twin::Where::Here()) {
    static_assert(twin::oneOf<T, half, float>, "Select of this type: dav-2201 has no such instruction");
    const twin::Operand b = twin::Walk(src1, p.src1BlkStride, p.src1RepStride);
    twin::SelectBy(twin::Walk(dst, p.dstBlkStride, p.dstRepStride), bits.view,
                   twin::Walk(src0, p.src0BlkStride, p.src0RepStride), &b, 0, mode,
                   twin::Lanes::Leading(mask, repeats, isSetMask), where);
}
template <typename T, typename U, bool isSetMask = true>
void Select(const LocalTensor<T>& dst, const LocalTensor<U>& bits, const LocalTensor<T>& src0, T src1, SELMODE mode,
            uint64_t mask, uint8_t repeats, const BinaryRepeatParams& p, twin::Where where = twin::Where::Here()) {
    static_assert(twin::oneOf<T, half, float>, "Select of this type: dav-2201 has no such instruction");
    twin::SelectBy(twin::Walk(dst, p.dstBlkStride, p.dstRepStride), bits.view,
                   twin::Walk(src0, p.src0BlkStride, p.src0RepStride), nullptr, twin::Scalar(src1), mode,
                   twin::Lanes::Leading(mask, repeats, isSetMask), where);
}

/// dst = first, first + 1, …
template <typename T>
void CreateVecIndex(LocalTensor<T> dst, const T& first, uint32_t count, twin::Where where = twin::Where::Here()) {
    static_assert(twin::oneOf<T, half, float, int16_t, int32_t>, "CreateVecIndex of this type is not there");
    twin::CountUp(twin::Walk(dst), twin::Scalar(first), twin::Lanes::Count(count), where);
}

template <typename T, MaskMode mode = MaskMode::NORMAL> void SetVectorMask(const uint64_t high, const uint64_t low) {
    twin::SetMask(high, low);
}
template <typename T, MaskMode mode = MaskMode::NORMAL> void SetVectorMask(int32_t length) {
    if (mode == MaskMode::COUNTER) return twin::SetMask(0, static_cast<uint64_t>(length));
    const uint64_t full = ~0ull;
    twin::SetMask(length > 64 ? full >> (128 - length) : 0, length >= 64 ? full : (1ull << length) - 1);
}
inline void ResetMask() { twin::SetMask(~0ull, ~0ull); }
inline void SetMaskCount() { twin::SetMaskMode(true); }
inline void SetMaskNorm() { twin::SetMaskMode(false); }

}  // namespace AscendC
