// The cube core: tiles from device memory to L1 and L0, products, and sums on their way out.
#pragma once

#include "copy.h"

namespace AscendC {

namespace twin {

void CopyNz(const Local& to, const Global& from, const Nd2NzParams& way, uint32_t size, Where where);
void Load2D(const Local& to, const Local& from, const LoadData2DParams& way, uint32_t size, Where where);
void Product(const Local& sum, const Local& left, const Local& right, const MmadParams& way, Type type, Where where);
void FixOut(const Global& to, const Local& sum, const FixpipeParamsV220& way, Type type, Where where);

}  // namespace twin

/// Row-major matrices to columns of fractals (Nz).
template <typename T>
void DataCopy(const LocalTensor<T>& dst, const GlobalTensor<T>& src, const Nd2NzParams& params,
              twin::Where where = twin::Where::Here()) {
    static_assert(sizeof(T) <= 4, "Nd2Nz copies elements of 1, 2 and 4 bytes");
    twin::CopyNz(dst.view, src.view, params, sizeof(T), where);
}

/// Fractals of 512 bytes from L1 to L0A or L0B.
template <typename T>
void LoadData(const LocalTensor<T>& dst, const LocalTensor<T>& src, const LoadData2DParams& params,
              twin::Where where = twin::Where::Here()) {
    static_assert(sizeof(T) <= 4, "LoadData loads elements of 1, 2 and 4 bytes");
    twin::Load2D(dst.view, src.view, params, sizeof(T), where);
}

template <typename T, typename U, typename S>
void Mmad(const LocalTensor<T>& dst, const LocalTensor<U>& fm, const LocalTensor<S>& filter, const MmadParams& params,
          twin::Where where = twin::Where::Here()) {
    static_assert(std::is_same_v<T, float> && std::is_same_v<U, S> && twin::oneOf<U, half, bfloat16_t, float>,
                  "the twin's Mmad adds products of half, bfloat16_t or float in float");
    twin::Product(dst.view, fm.view, filter.view, params, twin::typeOf<U>, where);
}

/// A sum to row-major device memory, rounded to the type there.
template <typename T, typename U, const FixpipeConfig& config = CFG_ROW_MAJOR>
void Fixpipe(const GlobalTensor<T>& dst, const LocalTensor<U>& src, const FixpipeParamsV220& params,
             twin::Where where = twin::Where::Here()) {
    static_assert(std::is_same_v<U, float> && twin::oneOf<T, half, bfloat16_t, float>,
                  "the twin's Fixpipe writes float sums as half, bfloat16_t or float");
    static_assert(config.format == CO2Layout::ROW_MAJOR, "the twin's Fixpipe writes row-major matrices");
    twin::FixOut(dst.view, src.view, params, twin::typeOf<T>, where);
}

}  // namespace AscendC
