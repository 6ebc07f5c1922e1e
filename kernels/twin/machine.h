// What an instruction of the twin is made of: where it stands in its source, the memory it reads and writes, the pipe
// that runs it. Everything that is checked on a core is checked behind these few functions, so that an instruction
// (vector.h, copy.h, cube.h) only says what it touches and computes.
#pragma once

#include "types.h"

namespace AscendC::twin {

/// The place in a kernel that issued an instruction, taken by a default argument at the end of every function.
struct Where {
    const char* file;
    unsigned line;
    static constexpr Where Here(const char* file = __builtin_FILE(), unsigned line = __builtin_LINE()) {
        return {file, line};
    }
};

enum class Kind : uint8_t { Cube, Vector };

/// Local memories of a core. `None` is that of a tensor nobody has given a buffer.
enum class Memory : uint8_t { None, UB, L1, L0A, L0B, L0C, BT, FB };

/// Bytes [start, limit) of a local memory: a tensor, from its first element to the end of its buffer.
struct Local {
    Memory memory = Memory::None;
    TPosition position = TPosition::MAX;
    uint32_t start = 0, limit = 0;
    /// The buffer of a queue that the tensor was taken from.
    void* buffer = nullptr;

    Local Offset(uint64_t bytes) const {
        Local moved = *this;
        moved.start = static_cast<uint32_t>(start + bytes);
        return moved;
    }
};

/// Device memory from `address` to the end of its tensor; `limit` is 0 where the kernel gave no size.
struct Global {
    uint64_t address = 0, limit = 0;
};

enum class Type : uint8_t { I8, U8, I16, U16, F16, BF16, I32, U32, F32, I64, U64 };

template <typename T> struct TypeOf;
#define NPU_TWIN_TYPE(c, name)                             \
    template <> struct TypeOf<c> {                         \
        static constexpr Type value = Type::name;          \
    };
NPU_TWIN_TYPE(int8_t, I8) NPU_TWIN_TYPE(uint8_t, U8) NPU_TWIN_TYPE(int16_t, I16) NPU_TWIN_TYPE(uint16_t, U16)
NPU_TWIN_TYPE(half, F16) NPU_TWIN_TYPE(bfloat16_t, BF16) NPU_TWIN_TYPE(int32_t, I32) NPU_TWIN_TYPE(uint32_t, U32)
NPU_TWIN_TYPE(float, F32) NPU_TWIN_TYPE(int64_t, I64) NPU_TWIN_TYPE(uint64_t, U64)
#undef NPU_TWIN_TYPE
template <typename T> inline constexpr Type typeOf = TypeOf<T>::value;

/// Whether `T` is one of `Of`: the types that dav-2201 has an instruction for.
template <typename T, typename... Of> inline constexpr bool oneOf = (std::is_same_v<T, Of> || ...);

constexpr uint32_t SizeOf(Type type) {
    switch (type) {
        case Type::I8: case Type::U8: return 1;
        case Type::I16: case Type::U16: case Type::F16: case Type::BF16: return 2;
        case Type::I32: case Type::U32: case Type::F32: return 4;
        default: return 8;
    }
}

bool CoreIs(Kind kind);
void Declare(KernelMetaType type);

/// Ends the kernel: `where` broke `rule`, which is a format as printf's.
[[noreturn]] void Fail(const char* instruction, Where where, const char* rule, ...) __attribute__((format(printf, 3, 4)));

/// One instruction on a pipe of the core that this thread is. It starts after those before it on its pipe and what the
/// scalar unit has waited for; reads and writes check bounds, that what is read was written, and that whatever touched
/// the bytes before on another pipe is ordered before it.
class Instruction {
  public:
    Instruction(pipe_t pipe, const char* name, Where where);
    ~Instruction();
    Instruction(const Instruction&) = delete;

    /// `bytes` of `tensor` from its byte `offset` on.
    const uint8_t* Read(const Local& tensor, uint64_t offset, uint64_t bytes);
    uint8_t* Write(const Local& tensor, uint64_t offset, uint64_t bytes);
    /// As Read, of bytes that nobody need have written: what is computed from them must not be used.
    const uint8_t* Peek(const Local& tensor, uint64_t offset, uint64_t bytes);
    /// Whether all of these bytes were written.
    bool Known(const Local& tensor, uint64_t offset, uint64_t bytes);
    /// Writes bytes of no defined value: reading them is a fault until something else writes them.
    uint8_t* Spoil(const Local& tensor, uint64_t offset, uint64_t bytes);
    /// `rows` runs of `bytes`, each `pitch` bytes after the last; the pointer is that of the first, and the others lie
    /// `pitch` bytes after it as on the device: all of them are in one allocation.
    const uint8_t* Read(const Global& tensor, uint64_t offset, uint64_t bytes, uint64_t rows = 1, uint64_t pitch = 0);
    uint8_t* Write(const Global& tensor, uint64_t offset, uint64_t bytes, uint64_t rows = 1, uint64_t pitch = 0);

    /// Fails with `rule` unless `holds`.
    template <typename... Values> void Require(bool holds, const char* rule, Values... values) {
        if (__builtin_expect(!holds, 0)) Fail(name, where, rule, values...);
    }
    /// A local operand begins at a multiple of `alignment` bytes.
    void RequireAligned(const Local& tensor, uint32_t alignment, const char* operand);

    /// Cycles that the pipe is busy with it, on top of those that issuing it took.
    void Takes(double cycles);
    /// As Takes, for what it read from and wrote to device memory in bursts of its own, all of it at the L2 cache's rate;
    /// where the chip's `sharing` says so, bytes that nobody touched before in this launch at a share of the memory's.
    void TakesTransfer(uint64_t bursts, double least = 0);
    /// The order of this instruction to those before it on the same pipe needs no barrier (large matrix products).
    void OrderedInPipe() { ordered = true; }

    const char* const name;
    const Where where;
    const pipe_t pipe;

  private:
    friend struct Core;
    bool ordered = false;
    uint32_t clock;
    /// Bytes of device memory that it read for the first time and again, and that it wrote.
    uint64_t fresh = 0, again = 0, stored = 0;
};

/// How stores to device memory combine, as SetAtomicAdd and its kin leave it.
enum class Atomic : uint8_t { None, Add, Max, Min };
/// Writes `bytes` to `out`, which Write returned, as the atomic mode of the core says.
void Store(uint8_t* out, const uint8_t* data, uint64_t bytes, Instruction& instruction);

// Flags, barriers and queues (sync.h, queue.h).
void SetEvent(HardEvent event, int id, Where where);
void WaitEvent(HardEvent event, int id, Where where);
int AllocEvent(HardEvent event, Where where);
void ReleaseEvent(HardEvent event, int id, Where where);
int FreeEvent(HardEvent event, Where where);
void Barrier(pipe_t pipe, Where where);
void CrossSet(uint8_t mode, pipe_t pipe, uint16_t id, Where where);
void CrossWait(uint16_t id, Where where);
void SyncCores(bool vectorOnly, Where where);
void SetAtomic(Atomic mode, Type type);
void CleanCache(const Global& tensor, bool all, Where where);
/// Takes `count` buffers of `bytes` from a memory; returns the first address.
uint32_t TakeBuffers(Memory memory, uint32_t count, uint32_t bytes, Where where);
void ResetBuffers();
/// Forgets what was written to a buffer: its next owner must write it first.
void Vacate(Memory memory, uint32_t start, uint32_t bytes);
/// The TPipe that the core works with.
void*& CurrentPipe();

struct Place {
    uint32_t block, blocks, sub, ratio;
};
Place WhereAmI();
uint64_t Cycles();

}  // namespace AscendC::twin
