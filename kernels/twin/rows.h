// Instructions of the vector unit that move or combine lanes: reductions, broadcasts, gathers, sorting, transposition.
#pragma once

#include "vector.h"

namespace AscendC {

template <typename T> struct MrgSortSrcList {
    MrgSortSrcList() = default;
    MrgSortSrcList(const LocalTensor<T>& a, const LocalTensor<T>& b, const LocalTensor<T>& c, const LocalTensor<T>& d)
        : src1(a), src2(b), src3(c), src4(d) {}
    LocalTensor<T> src1, src2, src3, src4;
};

namespace twin {

enum class Fold : uint8_t { Sum, Max, Min };

/// One result a repeat; `order` says what is kept of a maximum or minimum.
void FoldRepeats(Fold fold, const char* name, const Local& dst, const Operand& src, int64_t step, ReduceOrder order,
                 const Lanes& lanes, Where where);
/// One result a block of 32 bytes, or one for each two lanes.
void FoldBlocks(Fold fold, const char* name, const Local& dst, const Operand& src, int64_t step, const Lanes& lanes,
                Where where);
void FoldPairs(const char* name, const Local& dst, const Operand& src, int64_t step, const Lanes& lanes, Where where);
/// One result of `count` elements, or of all lanes of all repeats; `index` puts its place behind a maximum or minimum.
void FoldAll(Fold fold, const char* name, const Operand& dst, const Operand& src, const Local& work, bool index,
             const Lanes& lanes, Where where);
void Broadcast(const Operand& dst, const Local& src, uint32_t repeats, Where where);
void GatherAt(const Operand& dst, const Local& src, const Local& offsets, uint32_t base, const Lanes& lanes,
              Where where);
void GatherBlocks(const Operand& dst, const Local& src, const Local& offsets, uint32_t repeats, Where where);
/// `pattern`: 1 to 7 for a fixed one, 0 for the bits in `bits`. Returns how many elements were kept.
uint64_t Keep(const Operand& dst, const Operand& src, int pattern, const Local& bits, Type word, bool counted,
              uint32_t mask, const GatherMaskParams& params, Where where);
void SortThirtyTwo(const Operand& dst, const Local& score, const Local& index, uint32_t repeats, Where where);
void MergeSorted(const Operand& dst, const Local (&src)[4], const MrgSort4Info& info, Where where);
uint16_t Merged(int list);
void TransposeTile(const Operand& dst, const Operand& src, Where where);
void TransposeRows(const uint64_t* dst, const uint64_t* src, Type type, const TransDataTo5HDParams& params,
                   Where where);

}  // namespace twin

#define NPU_TWIN_REDUCE(Name, How)                                                                                     \
    template <typename T, bool isSetMask = true>                                                                       \
    void WholeReduce##Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t mask,                   \
                           const int32_t repeats, const int32_t dstRepStride, const int32_t srcBlkStride,              \
                           const int32_t srcRepStride, ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX,             \
                           twin::Where where = twin::Where::Here()) {                                                  \
        static_assert(twin::oneOf<T, half, float>, "WholeReduce of this type: dav-2201 has no such instruction");      \
        twin::FoldRepeats(How, "WholeReduce" #Name, dst.view, twin::Walk(src, srcBlkStride, srcRepStride),             \
                          dstRepStride, order, twin::Lanes::Leading(mask, repeats, isSetMask), where);                 \
    }                                                                                                                  \
    template <typename T, bool isSetMask = true>                                                                       \
    void WholeReduce##Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint64_t mask[],                \
                           const int32_t repeats, const int32_t dstRepStride, const int32_t srcBlkStride,              \
                           const int32_t srcRepStride, ReduceOrder order = ReduceOrder::ORDER_VALUE_INDEX,             \
                           twin::Where where = twin::Where::Here()) {                                                  \
        static_assert(twin::oneOf<T, half, float>, "WholeReduce of this type: dav-2201 has no such instruction");      \
        twin::FoldRepeats(How, "WholeReduce" #Name, dst.view, twin::Walk(src, srcBlkStride, srcRepStride),             \
                          dstRepStride, order, twin::Lanes::Bits(mask, repeats, isSetMask), where);                    \
    }                                                                                                                  \
    template <typename T, bool isSetMask = true>                                                                       \
    void BlockReduce##Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeats,                \
                           const int32_t mask, const int32_t dstRepStride, const int32_t srcBlkStride,                 \
                           const int32_t srcRepStride, twin::Where where = twin::Where::Here()) {                      \
        static_assert(twin::oneOf<T, half, float>, "BlockReduce of this type: dav-2201 has no such instruction");      \
        twin::FoldBlocks(How, "BlockReduce" #Name, dst.view, twin::Walk(src, srcBlkStride, srcRepStride),              \
                         dstRepStride, twin::Lanes::Leading(mask, repeats, isSetMask), where);                         \
    }                                                                                                                  \
    template <typename T, bool isSetMask = true>                                                                       \
    void BlockReduce##Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeats,                \
                           const uint64_t mask[], const int32_t dstRepStride, const int32_t srcBlkStride,              \
                           const int32_t srcRepStride, twin::Where where = twin::Where::Here()) {                      \
        static_assert(twin::oneOf<T, half, float>, "BlockReduce of this type: dav-2201 has no such instruction");      \
        twin::FoldBlocks(How, "BlockReduce" #Name, dst.view, twin::Walk(src, srcBlkStride, srcRepStride),              \
                         dstRepStride, twin::Lanes::Bits(mask, repeats, isSetMask), where);                            \
    }                                                                                                                  \
    template <typename T>                                                                                              \
    void Reduce##Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& work,                \
                      const int32_t count, bool calIndex = false, twin::Where where = twin::Where::Here()) {           \
        static_assert(twin::oneOf<T, half, float>, "Reduce of this type: dav-2201 has no such instruction");           \
        twin::FoldAll(How, "Reduce" #Name, twin::Walk(dst), twin::Walk(src), work.view, calIndex,                      \
                      twin::Lanes::Count(count), where);                                                               \
    }                                                                                                                  \
    template <typename T>                                                                                              \
    void Reduce##Name(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<T>& work,                \
                      const int32_t mask, const int32_t repeats, const int32_t srcRepStride, bool calIndex = false,    \
                      twin::Where where = twin::Where::Here()) {                                                       \
        static_assert(twin::oneOf<T, half, float>, "Reduce of this type: dav-2201 has no such instruction");           \
        twin::FoldAll(How, "Reduce" #Name, twin::Walk(dst), twin::Walk(src, 1, srcRepStride), work.view, calIndex,     \
                      twin::Lanes::Leading(mask, repeats), where);                                                     \
    }
NPU_TWIN_REDUCE(Sum, twin::Fold::Sum)
NPU_TWIN_REDUCE(Max, twin::Fold::Max)
NPU_TWIN_REDUCE(Min, twin::Fold::Min)
#undef NPU_TWIN_REDUCE

template <typename T, bool isSetMask = true>
void PairReduceSum(const LocalTensor<T>& dst, const LocalTensor<T>& src, const int32_t repeats, const int32_t mask,
                   const int32_t dstRepStride, const int32_t srcBlkStride, const int32_t srcRepStride,
                   twin::Where where = twin::Where::Here()) {
    static_assert(twin::oneOf<T, half, float>, "PairReduceSum of this type: dav-2201 has no such instruction");
    twin::FoldPairs("PairReduceSum", dst.view, twin::Walk(src, srcBlkStride, srcRepStride), dstRepStride,
                    twin::Lanes::Leading(mask, repeats, isSetMask), where);
}

/// Each of eight elements a repeat fills a block.
template <typename T>
void Brcb(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint8_t repeats, const BrcbRepeatParams& p,
          twin::Where where = twin::Where::Here()) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "Brcb takes elements of 16 and 32 bits");
    twin::Broadcast(twin::Walk(dst, p.dstBlkStride, p.dstRepStride), src.view, repeats, where);
}

/// `offsets`: in bytes from `base` bytes behind the start of `src`.
template <typename T>
void Gather(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<uint32_t>& offsets,
            const uint32_t base, const uint32_t count, twin::Where where = twin::Where::Here()) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "Gather takes elements of 16 and 32 bits");
    twin::GatherAt(twin::Walk(dst), src.view, offsets.view, base, twin::Lanes::Count(count), where);
}
template <typename T>
void Gather(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<uint32_t>& offsets,
            const uint32_t base, const uint64_t mask, const uint8_t repeats, const uint16_t dstRepStride,
            twin::Where where = twin::Where::Here()) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "Gather takes elements of 16 and 32 bits");
    twin::GatherAt(twin::Walk(dst, 1, dstRepStride), src.view, offsets.view, base, twin::Lanes::Leading(mask, repeats),
                   where);
}
template <typename T>
void Gatherb(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<uint32_t>& offsets,
             const uint8_t repeats, const GatherRepeatParams& p, twin::Where where = twin::Where::Here()) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "Gatherb takes elements of 16 and 32 bits");
    twin::GatherBlocks(twin::Walk(dst, p.dstBlkStride, p.dstRepStride), src.view, offsets.view, repeats, where);
}

template <typename T, typename U, GatherMaskMode mode = defaultGatherMaskMode>
void GatherMask(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LocalTensor<U>& pattern, const bool counted,
                const uint32_t mask, const GatherMaskParams& params, uint64_t& kept,
                twin::Where where = twin::Where::Here()) {
    static_assert((sizeof(T) == 2 && std::is_same_v<U, uint16_t>) || (sizeof(T) == 4 && std::is_same_v<U, uint32_t>),
                  "a pattern's words are as wide as the elements");
    kept = twin::Keep(twin::Walk(dst), twin::Walk(src), 0, pattern.view, twin::typeOf<U>, counted, mask, params, where);
}
template <typename T, GatherMaskMode mode = defaultGatherMaskMode>
void GatherMask(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint8_t pattern, const bool counted,
                const uint32_t mask, const GatherMaskParams& params, uint64_t& kept,
                twin::Where where = twin::Where::Here()) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "GatherMask takes elements of 16 and 32 bits");
    kept = twin::Keep(twin::Walk(dst), twin::Walk(src), pattern, {}, twin::Type::U8, counted, mask, params, where);
}

/// Pairs (score, index) of 8 bytes, 32 a repeat, from the highest score down; equal scores as they came.
template <typename T>
void Sort32(const LocalTensor<T>& dst, const LocalTensor<T>& score, const LocalTensor<uint32_t>& index,
            const int32_t repeats, twin::Where where = twin::Where::Here()) {
    static_assert(twin::oneOf<T, half, float>, "Sort32 takes half and float");
    twin::SortThirtyTwo(twin::Walk(dst), score.view, index.view, repeats, where);
}
template <typename T>
void MrgSort(const LocalTensor<T>& dst, const MrgSortSrcList<T>& lists, const MrgSort4Info& info,
             twin::Where where = twin::Where::Here()) {
    static_assert(twin::oneOf<T, half, float>, "MrgSort takes half and float");
    const twin::Local src[4] = {lists.src1.view, lists.src2.view, lists.src3.view, lists.src4.view};
    twin::MergeSorted(twin::Walk(dst), src, info, where);
}
inline void GetMrgSortResult(uint16_t& a, uint16_t& b, uint16_t& c, uint16_t& d) {
    a = twin::Merged(0), b = twin::Merged(1), c = twin::Merged(2), d = twin::Merged(3);
}

/// 16 by 16 elements of 16 bits.
template <typename T>
void Transpose(const LocalTensor<T>& dst, const LocalTensor<T>& src, twin::Where where = twin::Where::Here()) {
    static_assert(twin::oneOf<T, half, int16_t, uint16_t>, "Transpose takes elements of 16 bits");
    twin::TransposeTile(twin::Walk(dst), twin::Walk(src), where);
}
/// Sixteen blocks, given by address, as rows of a matrix that is transposed.
template <typename T>
void TransDataTo5HD(uint64_t dst[16], uint64_t src[16], const TransDataTo5HDParams& params,
                    twin::Where where = twin::Where::Here()) {
    static_assert(sizeof(T) == 2 || sizeof(T) == 4, "the twin's TransDataTo5HD takes elements of 16 and 32 bits");
    twin::TransposeRows(dst, src, twin::typeOf<T>, params, where);
}
template <typename T>
void TransDataTo5HD(const LocalTensor<T> (&dst)[16], const LocalTensor<T> (&src)[16],
                    const TransDataTo5HDParams& params, twin::Where where = twin::Where::Here()) {
    uint64_t to[16], from[16];
    for (int i = 0; i < 16; ++i) to[i] = dst[i].GetPhyAddr(), from[i] = src[i].GetPhyAddr();
    TransDataTo5HD<T>(to, from, params, where);
}

}  // namespace AscendC
