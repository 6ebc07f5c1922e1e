// Tensors in local and in device memory. Both are handles: copying one copies no data.
#pragma once

#include "machine.h"

namespace AscendC {

template <typename T> class LocalTensor {
  public:
    using PrimType = T;

    LocalTensor() = default;
    explicit LocalTensor(const twin::Local& at) : view(at) {}

    LocalTensor operator[](uint32_t offset) const { return LocalTensor(view.Offset(uint64_t(offset) * sizeof(T))); }
    template <typename U> LocalTensor<U> ReinterpretCast() const { return LocalTensor<U>(view); }

    T GetValue(uint32_t index, twin::Where where = twin::Where::Here()) const {
        twin::Instruction scalar(PIPE_S, "GetValue", where);
        T value;
        std::memcpy(&value, scalar.Read(view, uint64_t(index) * sizeof(T), sizeof(T)), sizeof(T));
        return value;
    }
    template <typename U> void SetValue(uint32_t index, U value, twin::Where where = twin::Where::Here()) const {
        twin::Instruction scalar(PIPE_S, "SetValue", where);
        const T converted = static_cast<T>(value);
        std::memcpy(scalar.Write(view, uint64_t(index) * sizeof(T), sizeof(T)), &converted, sizeof(T));
    }

    uint64_t GetPhyAddr(uint32_t offset = 0) const { return view.start + uint64_t(offset) * sizeof(T); }
    int32_t GetPosition() const { return static_cast<int32_t>(view.position); }
    uint32_t GetSize() const { return size != 0 ? size : (view.limit - view.start) / uint32_t(sizeof(T)); }
    void SetSize(uint32_t elements) { size = elements; }
    void SetUserTag(int32_t value) { tag = value; }
    int32_t GetUserTag() const { return tag; }

    twin::Local view;

  private:
    uint32_t size = 0;
    int32_t tag = 0;
};

template <typename T> class GlobalTensor {
  public:
    using PrimType = T;

    void SetGlobalBuffer(__gm__ T* buffer, uint64_t elements) {
        view.address = reinterpret_cast<uint64_t>(buffer);
        view.limit = view.address + elements * sizeof(T);
        size = elements;
    }
    void SetGlobalBuffer(__gm__ T* buffer) { view = {reinterpret_cast<uint64_t>(buffer), 0}; }

    GlobalTensor operator[](uint64_t offset) const {
        GlobalTensor moved = *this;
        moved.view.address += offset * sizeof(T);
        return moved;
    }

    T GetValue(uint64_t index, twin::Where where = twin::Where::Here()) const {
        twin::Instruction scalar(PIPE_S, "GetValue", where);
        T value;
        std::memcpy(&value, scalar.Read(view, index * sizeof(T), sizeof(T)), sizeof(T));
        return value;
    }
    void SetValue(uint64_t index, T value, twin::Where where = twin::Where::Here()) const {
        twin::Instruction scalar(PIPE_S, "SetValue", where);
        std::memcpy(scalar.Write(view, index * sizeof(T), sizeof(T)), &value, sizeof(T));
    }

    __gm__ T* GetPhyAddr(uint64_t offset = 0) const {
        return reinterpret_cast<__gm__ T*>(view.address + offset * sizeof(T));
    }
    uint64_t GetSize() const { return size; }
    template <CacheRwMode rw = CacheRwMode::RW> void SetL2CacheHint(CacheMode) {}

    twin::Global view;

  private:
    uint64_t size = 0;
};

}  // namespace AscendC
