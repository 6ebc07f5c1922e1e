// From the form of a vector instruction to runs of elements that lie one after the other in all of its operands.
#pragma once

#include <algorithm>

#include "../vector.h"
#include "core.h"

namespace AscendC::twin {

template <int N> struct Run {
    /// Offset in bytes of the run in each operand, from the operand's start.
    uint64_t at[N];
    uint64_t count;
    uint32_t repeat;
    /// Number of the first element within its repeat; in the counted form, of all.
    uint64_t lane;
};

inline uint32_t WidestOf(const Operand* const* operands, int count) {
    uint32_t size = 1;
    for (int i = 0; i < count; ++i)
        if (operands[i] != nullptr) size = std::max(size, SizeOf(operands[i]->type));
    return size;
}

/// The lanes with what the mask register gives where the instruction does not set it.
inline Lanes Resolve(const Lanes& lanes) {
    if (lanes.form != Lanes::Form::Register) return lanes;
    const Core& core = Me();
    if (core.counter_mode) return Lanes::Count(static_cast<int64_t>(core.mask[0]));
    Lanes out = lanes;
    out.form = Lanes::Form::Bits;
    out.bits[0] = core.mask[0];
    out.bits[1] = core.mask[1];
    return out;
}

/// Repeats that the vector unit needs: of 256 bytes of the widest operand.
inline double RepeatsOf(const Lanes& given, const Operand* const* operands, int count) {
    const Lanes lanes = Resolve(given);
    const uint32_t lanes_a_repeat = 256 / WidestOf(operands, count);
    if (lanes.form != Lanes::Form::Count) return lanes.repeats;
    return static_cast<double>((lanes.count + lanes_a_repeat - 1) / lanes_a_repeat);
}

/// Calls `visit` with each run. An operand that is null is left out.
template <int N, typename Visit>
void ForRuns(Instruction& it, const Operand* const (&operands)[N], const Lanes& given, Visit visit) {
    const Lanes lanes = Resolve(given);
    const uint32_t per_repeat = 256 / WidestOf(operands, N);
    if (lanes.form == Lanes::Form::Count) {
        it.Require(static_cast<int64_t>(lanes.count) > 0, "%ld elements", (long)lanes.count);
        visit(Run<N>{{}, lanes.count, 0, 0});
        return;
    }
    it.Require(lanes.repeats <= 255, "%u repeats: 255 at most", lanes.repeats);
    const bool leading = lanes.form == Lanes::Form::Leading;
    it.Require(!leading || (lanes.count >= 1 && lanes.count <= per_repeat),
               "a mask of %lu lanes: 1 to %u of this type are there", (unsigned long)lanes.count, per_repeat);
    // The narrowest operand's blocks hold the most elements, the widest's the fewest: no run passes the end of one.
    uint32_t step = 32 / WidestOf(operands, N);
    bool dense = true;
    for (const Operand* operand : operands) dense = dense && (operand == nullptr || operand->block == 1);
    if (dense) step = per_repeat;
    const auto wanted = [&](uint32_t lane) {
        return leading ? lane < lanes.count : (lanes.bits[lane / 64] >> (lane % 64) & 1) != 0;
    };
    for (uint32_t repeat = 0; repeat < lanes.repeats; ++repeat) {
        for (uint32_t lane = 0; lane < per_repeat;) {
            if (!wanted(lane)) {
                ++lane;
                continue;
            }
            const uint32_t stop = (lane / step + 1) * step;
            uint32_t end = lane + 1;
            while (end < stop && end < per_repeat && wanted(end)) ++end;
            Run<N> run{{}, end - lane, repeat, lane};
            for (int i = 0; i < N; ++i) {
                if (operands[i] == nullptr) continue;
                const Operand& operand = *operands[i];
                const uint32_t per_block = 32 / SizeOf(operand.type);
                run.at[i] = 32ull * (uint64_t(repeat) * operand.repeat + uint64_t(lane / per_block) * operand.block) +
                            lane % per_block * SizeOf(operand.type);
            }
            visit(run);
            lane = end;
        }
    }
}

}  // namespace AscendC::twin
