// Copies between device memory and the local memories of a core. Counts and strides are in blocks of 32 bytes except
// where DataCopyPad counts bytes.
#pragma once

#include "queue.h"

namespace AscendC {

namespace twin {

/// `rows` runs of `bytes`; from the start of one to that of the next, `source` and `target` bytes.
struct Runs {
    uint64_t rows, bytes, source, target;
};
void CopyIn(const Local& to, const Global& from, const Runs& runs, const char* name, Where where);
void CopyOut(const Global& to, const Local& from, const Runs& runs, const char* name, Where where);
void CopyLocal(const Local& to, const Local& from, const Runs& runs, const char* name, Where where);
/// The runs of DataCopyPad on their way in: each is filled up to a multiple of 32 bytes, with `left` and `right`
/// elements of `value` where it is padded.
struct Padding {
    bool pad;
    uint32_t left, right, size;
    uint64_t value;
};
void CopyPadded(const Local& to, const Global& from, const Runs& runs, const Padding& padding, Where where);

inline Runs Blocks(const DataCopyParams& p) {
    return {p.blockCount, p.blockLen * 32ull, (p.blockLen + p.srcStride) * 32ull, (p.blockLen + p.dstStride) * 32ull};
}
template <typename T> uint64_t PadBits(T value) {
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(T));
    return bits;
}
constexpr uint64_t RoundUp(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

}  // namespace twin

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& params,
              twin::Where where = twin::Where::Here()) {
    twin::CopyIn(dst.view, src.view, twin::Blocks(params), "DataCopy", where);
}
template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& params,
              twin::Where where = twin::Where::Here()) {
    twin::CopyOut(dst.view, src.view, twin::Blocks(params), "DataCopy", where);
}
template <typename T>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& params,
              twin::Where where = twin::Where::Here()) {
    twin::CopyLocal(dst.view, src.view, twin::Blocks(params), "DataCopy", where);
}

template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const uint32_t count,
              twin::Where where = twin::Where::Here()) {
    twin::CopyIn(dst.view, src.view, {1, uint64_t(count) * sizeof(T), 0, 0}, "DataCopy", where);
}
template <typename T>
void DataCopy(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const uint32_t count,
              twin::Where where = twin::Where::Here()) {
    twin::CopyOut(dst.view, src.view, {1, uint64_t(count) * sizeof(T), 0, 0}, "DataCopy", where);
}
template <typename T>
void DataCopy(const LocalTensor<T>& dst, const LocalTensor<T>& src, const uint32_t count,
              twin::Where where = twin::Where::Here()) {
    twin::CopyLocal(dst.view, src.view, {1, uint64_t(count) * sizeof(T), 0, 0}, "DataCopy", where);
}

template <typename T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyExtParams& params,
                 const DataCopyPadExtParams<T>& pad, twin::Where where = twin::Where::Here()) {
    const uint64_t row = twin::RoundUp(params.blockLen + (pad.isPad ? pad.leftPadding + pad.rightPadding : 0) * sizeof(T), 32);
    const twin::Runs runs{params.blockCount, params.blockLen, uint64_t(params.blockLen) + params.srcStride,
                          row + params.dstStride * 32ull};
    twin::CopyPadded(dst.view, src.view, runs,
                     {pad.isPad, pad.leftPadding, pad.rightPadding, sizeof(T), twin::PadBits(pad.paddingValue)}, where);
}
template <typename T>
void DataCopyPad(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const DataCopyParams& params,
                 const DataCopyPadParams& pad, twin::Where where = twin::Where::Here()) {
    const uint64_t row = twin::RoundUp(params.blockLen + (pad.isPad ? pad.leftPadding + pad.rightPadding : 0) * sizeof(T), 32);
    const twin::Runs runs{params.blockCount, params.blockLen, uint64_t(params.blockLen) + params.srcStride,
                          row + params.dstStride * 32ull};
    twin::CopyPadded(dst.view, src.view, runs,
                     {pad.isPad, pad.leftPadding, pad.rightPadding, sizeof(T), pad.paddingValue}, where);
}
template <typename T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyExtParams& params,
                 twin::Where where = twin::Where::Here()) {
    const twin::Runs runs{params.blockCount, params.blockLen,
                          twin::RoundUp(params.blockLen, 32) + params.srcStride * 32ull,
                          uint64_t(params.blockLen) + params.dstStride};
    twin::CopyOut(dst.view, src.view, runs, "DataCopyPad", where);
}
template <typename T>
void DataCopyPad(const GlobalTensor<T>& dst, const LocalTensor<T>& src, const DataCopyParams& params,
                 twin::Where where = twin::Where::Here()) {
    DataCopyPad(dst, src, DataCopyExtParams(params.blockCount, params.blockLen, params.srcStride, params.dstStride, 0),
                where);
}

}  // namespace AscendC
