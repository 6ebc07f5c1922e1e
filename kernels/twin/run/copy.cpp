// Copies between device memory and local memories.
#include "../copy.h"

#include <algorithm>

#include "core.h"
#include "cost.h"
#include "launch.h"

namespace AscendC::twin {

namespace {

constexpr uint64_t VECTOR_BYTES = 256, BLOCK = 32, MOST_ROWS = 4095, MOST_BLOCKS = 65535, MOST_BYTES = 2097151;

void RequireShape(Instruction& it, const Runs& runs) {
    it.Require(runs.rows >= 1 && runs.rows <= MOST_ROWS, "%lu blocks: 1 to %lu are possible", (unsigned long)runs.rows,
               (unsigned long)MOST_ROWS);
    it.Require(runs.bytes > 0, "blocks of 0 bytes");
    it.Require(runs.bytes % BLOCK == 0, "%lu bytes, not a multiple of 32: DataCopyPad copies such a length",
               (unsigned long)runs.bytes);
    it.Require(runs.bytes / BLOCK <= MOST_BLOCKS, "%lu bytes at a time", (unsigned long)runs.bytes);
}

}  // namespace

void CopyIn(const Local& to, const twin::Global& from, const Runs& runs, const char* name, Where where) {
    Instruction it(PIPE_MTE2, name, where);
    RequireShape(it, runs);
    it.RequireAligned(to, BLOCK, "the destination");
    const uint8_t* data = it.Read(from, 0, runs.bytes, runs.rows, runs.source);
    for (uint64_t row = 0; row < runs.rows; ++row)
        std::memcpy(it.Write(to, row * runs.target, runs.bytes), data + row * runs.source, runs.bytes);
    NpuTwinReport& tally = Me().tally;
    (to.memory == Memory::UB ? tally.gm_to_ub : tally.gm_to_l1) += runs.rows * runs.bytes;
    it.TakesTransfer(runs.rows);
}

void CopyPadded(const Local& to, const twin::Global& from, const Runs& runs, const Padding& padding, Where where) {
    Instruction it(PIPE_MTE2, "DataCopyPad", where);
    it.Require(to.memory == Memory::UB, "dav-2201 pads on the way to UB only");
    it.Require(runs.rows >= 1 && runs.rows <= MOST_ROWS, "%lu blocks: 1 to %lu are possible", (unsigned long)runs.rows,
               (unsigned long)MOST_ROWS);
    it.Require(runs.bytes > 0 && runs.bytes <= MOST_BYTES, "blocks of %lu bytes", (unsigned long)runs.bytes);
    it.RequireAligned(to, BLOCK, "the destination");
    const uint64_t left = padding.pad ? padding.left * padding.size : 0;
    const uint64_t right = padding.pad ? padding.right * padding.size : 0;
    it.Require(left <= BLOCK && right <= BLOCK, "more than 32 bytes of padding");
    const uint8_t* data = it.Read(from, 0, runs.bytes, runs.rows, runs.source);
    const uint64_t filled = left + runs.bytes + right, whole = RoundUp(filled, BLOCK);
    for (uint64_t row = 0; row < runs.rows; ++row) {
        const uint64_t at = row * runs.target;
        uint8_t* out = it.Write(to, at, filled);
        for (uint64_t byte = 0; byte < left; byte += padding.size) std::memcpy(out + byte, &padding.value, padding.size);
        std::memcpy(out + left, data + row * runs.source, runs.bytes);
        for (uint64_t byte = left + runs.bytes; byte < filled; byte += padding.size)
            std::memcpy(out + byte, &padding.value, padding.size);
        // The rest of the last block holds what the engine likes.
        if (whole > filled) std::memset(it.Spoil(to, at + filled, whole - filled), 0xa5, whole - filled);
    }
    Me().tally.gm_to_ub += runs.rows * runs.bytes;
    it.TakesTransfer(runs.rows);
}

void CopyOut(const twin::Global& to, const Local& from, const Runs& runs, const char* name, Where where) {
    Instruction it(PIPE_MTE3, name, where);
    const bool bytes = name[8] == 'P';  // DataCopyPad
    if (bytes) {
        it.Require(runs.rows >= 1 && runs.rows <= MOST_ROWS, "%lu blocks: 1 to %lu are possible",
                   (unsigned long)runs.rows, (unsigned long)MOST_ROWS);
        it.Require(runs.bytes > 0 && runs.bytes <= MOST_BYTES, "blocks of %lu bytes", (unsigned long)runs.bytes);
    } else {
        RequireShape(it, runs);
    }
    it.RequireAligned(from, BLOCK, "the source");
    uint8_t* out = it.Write(to, 0, runs.bytes, runs.rows, runs.target);
    for (uint64_t row = 0; row < runs.rows; ++row)
        Store(out + row * runs.target, it.Read(from, row * runs.source, runs.bytes), runs.bytes, it);
    Me().tally.ub_to_gm += runs.rows * runs.bytes;
    it.TakesTransfer(runs.rows);
}

void CopyLocal(const Local& to, const Local& from, const Runs& runs, const char* name, Where where) {
    Instruction it(PIPE_V, name, where);
    it.Require(to.memory == Memory::UB && from.memory == Memory::UB, "a copy from %s to %s: only UB to UB is there",
               NameOf(from.memory), NameOf(to.memory));
    RequireShape(it, runs);
    it.RequireAligned(to, BLOCK, "the destination");
    it.RequireAligned(from, BLOCK, "the source");
    for (uint64_t row = 0; row < runs.rows; ++row) {
        const uint8_t* data = it.Read(from, row * runs.source, runs.bytes);
        std::memmove(it.Write(to, row * runs.target, runs.bytes), data, runs.bytes);
    }
    it.Takes(double(runs.rows) * std::max(double(runs.bytes) / VECTOR_BYTES, 1.0));
}

namespace {

template <typename T, typename Get, typename Put>
void Combine(Atomic mode, uint8_t* out, const uint8_t* data, uint64_t bytes, Get get, Put put) {
    for (uint64_t at = 0; at + sizeof(T) <= bytes; at += sizeof(T)) {
        T old, more;
        std::memcpy(&old, out + at, sizeof(T));
        std::memcpy(&more, data + at, sizeof(T));
        const auto a = get(old), b = get(more);
        const T value = put(mode == Atomic::Add ? a + b : mode == Atomic::Max ? std::max(a, b) : std::min(a, b));
        std::memcpy(out + at, &value, sizeof(T));
    }
}

template <typename T> void CombineWhole(Atomic mode, uint8_t* out, const uint8_t* data, uint64_t bytes) {
    Combine<T>(mode, out, data, bytes, [](T x) { return x; }, [](auto x) { return static_cast<T>(x); });
}

}  // namespace

void Store(uint8_t* out, const uint8_t* data, uint64_t bytes, Instruction& it) {
    Core& core = Me();
    if (core.atomic == Atomic::None) {
        std::memcpy(out, data, bytes);
        return;
    }
    std::unique_lock<std::mutex> guard(core.launch->atomics);
    switch (core.atomic_type) {
        case Type::F32: return CombineWhole<float>(core.atomic, out, data, bytes);
        case Type::I32: return CombineWhole<int32_t>(core.atomic, out, data, bytes);
        case Type::I16: return CombineWhole<int16_t>(core.atomic, out, data, bytes);
        case Type::I8: return CombineWhole<int8_t>(core.atomic, out, data, bytes);
        case Type::F16: return Combine<uint16_t>(core.atomic, out, data, bytes, HalfToFloat, FloatToHalf);
        case Type::BF16:
            return Combine<uint16_t>(core.atomic, out, data, bytes,
                                     [](uint16_t x) { return FromBits(uint32_t(x) << 16); }, FloatToBfloat);
        default: it.Require(false, "stores combine no such type");
    }
}

}  // namespace AscendC::twin
