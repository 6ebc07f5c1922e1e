// Flags between the pipes of a core and between cores, barriers, atomic modes, and where a core stands in its launch.
#pragma once

#include "tensor.h"

namespace AscendC {

template <HardEvent event> void SetFlag(int32_t id, twin::Where where = twin::Where::Here()) {
    twin::SetEvent(event, id, where);
}
template <HardEvent event> void WaitFlag(int32_t id, twin::Where where = twin::Where::Here()) {
    twin::WaitEvent(event, id, where);
}
template <pipe_t pipe> void PipeBarrier(twin::Where where = twin::Where::Here()) { twin::Barrier(pipe, where); }
template <MemDsbT kind> void DataSyncBarrier(twin::Where where = twin::Where::Here()) {
    twin::Barrier(PIPE_ALL, where);
}

template <uint8_t modeId, pipe_t pipe> void CrossCoreSetFlag(uint16_t id, twin::Where where = twin::Where::Here()) {
    twin::CrossSet(modeId, pipe, id, where);
}
template <uint8_t modeId = 0, pipe_t pipe = PIPE_S>
void CrossCoreWaitFlag(uint16_t id, twin::Where where = twin::Where::Here()) {
    twin::CrossWait(id, where);
}
template <bool isAIVOnly = true> void SyncAll(twin::Where where = twin::Where::Here()) {
    twin::SyncCores(isAIVOnly, where);
}

template <typename T> void SetAtomicAdd() {
    static_assert(twin::oneOf<T, half, bfloat16_t, float, int16_t, int32_t, int8_t>, "dav-2201 adds no such type atomically");
    twin::SetAtomic(twin::Atomic::Add, twin::typeOf<T>);
}
template <typename T> void SetAtomicMax() {
    static_assert(twin::oneOf<T, half, bfloat16_t, float, int16_t, int32_t, int8_t>, "no atomic maximum of this type");
    twin::SetAtomic(twin::Atomic::Max, twin::typeOf<T>);
}
template <typename T> void SetAtomicMin() {
    static_assert(twin::oneOf<T, half, bfloat16_t, float, int16_t, int32_t, int8_t>, "no atomic minimum of this type");
    twin::SetAtomic(twin::Atomic::Min, twin::typeOf<T>);
}
inline void SetAtomicNone() { twin::SetAtomic(twin::Atomic::None, twin::Type::F32); }

template <typename T, CacheLine line, DcciDst destination>
void DataCacheCleanAndInvalid(const GlobalTensor<T>& tensor, twin::Where where = twin::Where::Here()) {
    twin::CleanCache(tensor.view, line == CacheLine::ENTIRE_DATA_CACHE, where);
}
template <typename T, CacheLine line>
void DataCacheCleanAndInvalid(const GlobalTensor<T>& tensor, twin::Where where = twin::Where::Here()) {
    twin::CleanCache(tensor.view, line == CacheLine::ENTIRE_DATA_CACHE, where);
}

/// Vector cores count on through a mixed kernel's blocks; `GetBlockNum` counts the blocks that were launched.
inline int64_t GetBlockIdx() {
    const twin::Place at = twin::WhereAmI();
    return int64_t(at.block) * at.ratio + at.sub;
}
inline int64_t GetBlockNum() { return twin::WhereAmI().blocks; }
inline int64_t GetSubBlockIdx() { return twin::WhereAmI().sub; }
inline int64_t GetSubBlockNum() { return twin::WhereAmI().ratio; }
inline int64_t GetTaskRation() { return twin::WhereAmI().ratio; }
/// Ends the kernel with an error of the core.
inline void Trap(twin::Where where = twin::Where::Here()) { twin::Fail("Trap", where, "the kernel gave up"); }
inline int64_t GetSystemCycle() { return static_cast<int64_t>(twin::Cycles()); }

inline int64_t ScalarCountLeadingZero(uint64_t value) { return value == 0 ? 64 : __builtin_clzll(value); }
template <int countValue> int64_t ScalarGetCountOfValue(uint64_t value) {
    return __builtin_popcountll(countValue == 1 ? value : ~value);
}
template <int countValue> int64_t ScalarGetSFFValue(uint64_t value) {
    const uint64_t bits = countValue == 1 ? value : ~value;
    return bits == 0 ? -1 : __builtin_ctzll(bits);
}

}  // namespace AscendC
