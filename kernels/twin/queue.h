// TPipe, the queues and the buffers that share out a core's local memories.
#pragma once

#include "sync.h"

namespace AscendC {

namespace twin {

constexpr Memory MemoryOf(TPosition position) {
    switch (position) {
        case TPosition::VECIN: case TPosition::VECOUT: case TPosition::VECCALC: return Memory::UB;
        case TPosition::A1: case TPosition::B1: case TPosition::C1: case TPosition::TSCM: return Memory::L1;
        case TPosition::A2: return Memory::L0A;
        case TPosition::B2: return Memory::L0B;
        case TPosition::CO1: return Memory::L0C;
        case TPosition::C2: return Memory::BT;
        case TPosition::C2PIPE2GM: return Memory::FB;
        default: return Memory::None;
    }
}

/// The positions between which a queue of this position moves tensors, and the flags of the way there and back.
struct Way {
    HardEvent forward, back;
};
constexpr Way WayOf(TPosition from, TPosition to) {
    const Memory source = MemoryOf(from), target = MemoryOf(to);
    if (source == Memory::None && target == Memory::UB) return {HardEvent::MTE2_V, HardEvent::V_MTE2};
    if (source == Memory::UB && target == Memory::None) return {HardEvent::V_MTE3, HardEvent::MTE3_V};
    // What is copied in and out again without a vector instruction between.
    if (from == TPosition::VECIN && to == TPosition::VECOUT) return {HardEvent::MTE2_MTE3, HardEvent::MTE3_MTE2};
    if (source == Memory::UB && target == Memory::UB) return {HardEvent::V_V, HardEvent::V_V};
    if (source == Memory::None && target == Memory::L1) return {HardEvent::MTE2_MTE1, HardEvent::MTE1_MTE2};
    if (source == Memory::L1) return {HardEvent::MTE1_M, HardEvent::M_MTE1};
    if (source == Memory::L0C) return {HardEvent::M_FIX, HardEvent::FIX_M};
    return {HardEvent::MAX, HardEvent::MAX};
}
constexpr TPosition FromOf(TPosition position) {
    switch (position) {
        case TPosition::VECIN: case TPosition::A1: case TPosition::B1: case TPosition::C1: return TPosition::GM;
        case TPosition::A2: return TPosition::A1;
        case TPosition::B2: return TPosition::B1;
        case TPosition::C2: return TPosition::C1;
        default: return position;
    }
}
constexpr TPosition ToOf(TPosition position) {
    switch (position) {
        case TPosition::VECOUT: return TPosition::GM;
        case TPosition::CO1: return TPosition::CO2;
        default: return position;
    }
}

enum class State : uint8_t { Free, Allocated, Queued, Taken };

/// One buffer of a queue.
struct Buffer {
    const void* owner = nullptr;
    uint32_t start = 0, bytes = 0;
    State state = State::Free;
    /// Identifiers of the flags that say that it is filled, and that it may be filled again.
    int filled = -1, freed = -1;
    bool leased = false;
};

}  // namespace twin

constexpr int MAX_QUEUE_BUFFERS = 16;

/// A queue from `src` to `dst`, of at most `depth` tensors at a time: AllocTensor, EnQue, DeQue, FreeTensor in that
/// order for each buffer. Its flags order the pipes at both ends.
template <TPosition src, TPosition dst, int32_t depth, auto mask = 0> class TQueBind {
  public:
    static constexpr TPosition position = twin::MemoryOf(src) == twin::Memory::None || src == TPosition::A1 ||
                                                  src == TPosition::B1 || src == TPosition::C1
                                              ? dst
                                              : src;
    static constexpr twin::Memory memory = twin::MemoryOf(position);
    static constexpr twin::Way way = twin::WayOf(src, dst);

    template <typename T> LocalTensor<T> AllocTensor(twin::Where where = twin::Where::Here()) {
        if (count == 0) twin::Fail("AllocTensor", where, "the queue has no buffers: InitBuffer was not called");
        for (int i = 0; i < count; ++i) {
            twin::Buffer& buffer = buffers[(cursor + i) % count];
            if (buffer.state != twin::State::Free) continue;
            cursor = (cursor + i + 1) % count;
            if (buffer.freed >= 0) {
                twin::WaitEvent(way.back, buffer.freed, where);
                twin::ReleaseEvent(way.back, buffer.freed, where);
                buffer.freed = -1;
            }
            buffer.state = twin::State::Allocated;
            buffer.leased = true;
            twin::Vacate(memory, buffer.start, buffer.bytes);
            return Tensor<T>(buffer);
        }
        twin::Fail("AllocTensor", where, "all %d buffers of the queue are in use: FreeTensor comes first", count);
    }

    template <typename T> bool EnQue(const LocalTensor<T>& tensor, twin::Where where = twin::Where::Here()) {
        return Put(tensor.view, way.forward, where);
    }
    template <TPosition from, TPosition to, typename T>
    bool EnQue(const LocalTensor<T>& tensor, twin::Where where = twin::Where::Here()) {
        return Put(tensor.view, twin::WayOf(from, to).forward, where);
    }
    template <typename T> LocalTensor<T> DeQue(twin::Where where = twin::Where::Here()) {
        return Tensor<T>(Get(way.forward, where));
    }
    template <TPosition from, TPosition to, typename T>
    LocalTensor<T> DeQue(twin::Where where = twin::Where::Here()) {
        return Tensor<T>(Get(twin::WayOf(from, to).forward, where));
    }

    template <typename T> void FreeTensor(LocalTensor<T>& tensor, twin::Where where = twin::Where::Here()) {
        twin::Buffer& buffer = Mine(tensor.view, "FreeTensor", where);
        if (buffer.state == twin::State::Queued)
            twin::Fail("FreeTensor", where, "the tensor is still in the queue: DeQue comes first");
        if (buffer.state == twin::State::Free) twin::Fail("FreeTensor", where, "the tensor was freed before");
        buffer.freed = twin::AllocEvent(way.back, where);
        twin::SetEvent(way.back, buffer.freed, where);
        buffer.state = twin::State::Free;
    }
    template <typename T> void FreeTensor(LocalTensor<T>&& tensor, twin::Where where = twin::Where::Here()) {
        FreeTensor(tensor, where);
    }

    bool VacantInQue() const { return used < depth; }
    bool HasTensorInQue() const { return used > 0; }
    int32_t GetTensorCountInQue() const { return used; }
    bool HasIdleBuffer() const {
        for (int i = 0; i < count; ++i)
            if (buffers[i].state == twin::State::Free) return true;
        return false;
    }
    void FreeAllEvent(twin::Where where = twin::Where::Here()) {
        for (int i = 0; i < count; ++i) {
            if (buffers[i].freed < 0) continue;
            twin::WaitEvent(way.back, buffers[i].freed, where);
            twin::ReleaseEvent(way.back, buffers[i].freed, where);
            buffers[i].freed = -1;
        }
    }

    /// For TPipe.
    void Adopt(uint32_t start, int number, uint32_t bytes, twin::Where where) {
        if (number < 1 || number > MAX_QUEUE_BUFFERS)
            twin::Fail("InitBuffer", where, "a queue has 1 to %d buffers, not %d", MAX_QUEUE_BUFFERS, number);
        count = number;
        for (int i = 0; i < number; ++i) {
            buffers[i] = twin::Buffer();
            buffers[i].owner = this;
            buffers[i].start = start + uint32_t(i) * bytes;
            buffers[i].bytes = bytes;
        }
    }

  private:
    template <typename T> LocalTensor<T> Tensor(twin::Buffer& buffer) const {
        return LocalTensor<T>(twin::Local{memory, position, buffer.start, buffer.start + buffer.bytes, &buffer});
    }
    twin::Buffer& Mine(const twin::Local& view, const char* call, twin::Where where) {
        auto* buffer = static_cast<twin::Buffer*>(view.buffer);
        if (buffer == nullptr || buffer->owner != this)
            twin::Fail(call, where, "the tensor comes from another queue or buffer");
        return *buffer;
    }
    bool Put(const twin::Local& view, HardEvent event, twin::Where where) {
        twin::Buffer& buffer = Mine(view, "EnQue", where);
        if (buffer.state == twin::State::Queued) twin::Fail("EnQue", where, "the tensor is in the queue already");
        if (buffer.state == twin::State::Free)
            twin::Fail("EnQue", where, "the tensor was not allocated: AllocTensor comes first");
        if (used >= limit)
            twin::Fail("EnQue", where, "the queue holds %d tensors, its depth: DeQue comes first", used);
        buffer.filled = event == HardEvent::V_V ? 0 : twin::AllocEvent(event, where);
        twin::SetEvent(event, buffer.filled, where);
        buffer.state = twin::State::Queued;
        queue[(head + used++) % limit] = &buffer;
        return true;
    }
    twin::Buffer& Get(HardEvent event, twin::Where where) {
        if (used == 0) twin::Fail("DeQue", where, "the queue is empty: EnQue comes first");
        twin::Buffer& buffer = *queue[head];
        head = (head + 1) % limit;
        --used;
        twin::WaitEvent(event, buffer.filled, where);
        if (event != HardEvent::V_V) twin::ReleaseEvent(event, buffer.filled, where);
        buffer.filled = -1;
        buffer.state = twin::State::Taken;
        return buffer;
    }

    static constexpr int limit = depth > 0 ? depth : 1;
    twin::Buffer buffers[MAX_QUEUE_BUFFERS];
    twin::Buffer* queue[limit] = {};
    int count = 0, cursor = 0, head = 0, used = 0;
};

template <TPosition position, int32_t depth, auto mask = 0>
class TQue : public TQueBind<twin::FromOf(position), twin::ToOf(position), depth, mask> {};

/// A buffer that nothing queues: its user sets the flags.
template <TPosition position = TPosition::LCM> class TBuf {
  public:
    static constexpr twin::Memory memory = twin::MemoryOf(position);

    template <typename T> LocalTensor<T> Get(twin::Where where = twin::Where::Here()) {
        return Part<T>(0, bytes, where);
    }
    template <typename T> LocalTensor<T> Get(uint32_t elements, twin::Where where = twin::Where::Here()) {
        return Part<T>(0, uint64_t(elements) * sizeof(T), where);
    }
    template <typename T>
    LocalTensor<T> GetWithOffset(uint32_t elements, uint32_t offset, twin::Where where = twin::Where::Here()) {
        return Part<T>(offset, uint64_t(elements) * sizeof(T), where);
    }

    /// For TPipe.
    void Adopt(uint32_t at, uint32_t size) {
        start = at;
        bytes = size;
    }

  private:
    template <typename T> LocalTensor<T> Part(uint64_t offset, uint64_t size, twin::Where where) const {
        if (bytes == 0) twin::Fail("Get", where, "the buffer has no memory: InitBuffer was not called");
        if (offset + size > bytes)
            twin::Fail("Get", where, "bytes %lu to %lu of a buffer of %u", (unsigned long)offset,
                       (unsigned long)(offset + size), bytes);
        const uint32_t from = start + static_cast<uint32_t>(offset);
        return LocalTensor<T>(twin::Local{memory, position, from, from + static_cast<uint32_t>(size), nullptr});
    }

    uint32_t start = 0, bytes = 0;
};

class TPipe {
  public:
    TPipe() { twin::CurrentPipe() = this; }
    ~TPipe() {
        if (twin::CurrentPipe() == this) twin::CurrentPipe() = nullptr;
    }
    TPipe(const TPipe&) = delete;

    template <typename Queue>
    bool InitBuffer(Queue& queue, uint8_t count, uint32_t bytes, twin::Where where = twin::Where::Here()) {
        const uint32_t rounded = (bytes + 31) / 32 * 32;
        queue.Adopt(twin::TakeBuffers(Queue::memory, count, rounded, where), count, rounded, where);
        Remember(&queue, [](void* it, twin::Where at) { static_cast<Queue*>(it)->FreeAllEvent(at); });
        return true;
    }
    template <TPosition position>
    bool InitBuffer(TBuf<position>& buffer, uint32_t bytes, twin::Where where = twin::Where::Here()) {
        const uint32_t rounded = (bytes + 31) / 32 * 32;
        buffer.Adopt(twin::TakeBuffers(TBuf<position>::memory, 1, rounded, where), rounded);
        return true;
    }

    template <HardEvent event> TEventID AllocEventID(twin::Where where = twin::Where::Here()) {
        return static_cast<TEventID>(twin::AllocEvent(event, where));
    }
    template <HardEvent event> void ReleaseEventID(TEventID id, twin::Where where = twin::Where::Here()) {
        twin::ReleaseEvent(event, id, where);
    }
    /// An identifier that is free now: SetFlag and WaitFlag must follow before another is asked for.
    TEventID FetchEventID(HardEvent event, twin::Where where = twin::Where::Here()) {
        return static_cast<TEventID>(twin::FreeEvent(event, where));
    }
    template <HardEvent event> TEventID FetchEventID(twin::Where where = twin::Where::Here()) {
        return FetchEventID(event, where);
    }

    /// Waits for every queue's buffers and gives all memory back.
    void Reset(twin::Where where = twin::Where::Here()) {
        for (int i = 0; i < queues; ++i) release[i](queue[i], where);
        queues = 0;
        twin::Barrier(PIPE_ALL, where);
        twin::ResetBuffers();
    }
    void Destroy(twin::Where where = twin::Where::Here()) { Reset(where); }

  private:
    void Remember(void* it, void (*how)(void*, twin::Where)) {
        if (queues < 64) {
            queue[queues] = it;
            release[queues++] = how;
        }
    }

    void* queue[64] = {};
    void (*release[64])(void*, twin::Where) = {};
    int queues = 0;
};

inline TPipe* GetTPipePtr() { return static_cast<TPipe*>(twin::CurrentPipe()); }

}  // namespace AscendC
