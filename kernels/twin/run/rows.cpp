// Reductions, broadcasts, gathers, sorting and transposition.
#include "../rows.h"

#include <algorithm>
#include <cmath>

#include "core.h"
#include "cost.h"
#include "lanes.h"

namespace AscendC::twin {

namespace {

float Get(Type type, const uint8_t* at) {
    if (type == Type::F32) {
        float value;
        std::memcpy(&value, at, 4);
        return value;
    }
    uint16_t bits;
    std::memcpy(&bits, at, 2);
    return HalfToFloat(bits);
}

void Put(Type type, uint8_t* at, float value) {
    if (type == Type::F32) {
        std::memcpy(at, &value, 4);
        return;
    }
    const uint16_t bits = FloatToHalf(value);
    std::memcpy(at, &bits, 2);
}

void PutIndex(Type type, uint8_t* at, uint32_t index) { std::memcpy(at, &index, SizeOf(type)); }

float Round(Type type, float value) { return type == Type::F32 ? value : HalfToFloat(FloatToHalf(value)); }

/// The lanes of one repeat, with those that the mask leaves out marked.
struct Repeat {
    float value[128];
    bool used[128];
};

/// Calls `visit` with each repeat of `src`.
template <typename Visit> uint32_t ForRepeats(Instruction& it, const Operand& src, const Lanes& lanes, Visit visit) {
    const uint32_t size = SizeOf(src.type), per_repeat = 256 / size;
    Repeat repeat{};
    int64_t open = -1;
    uint32_t count = 0;
    const auto close = [&] {
        if (open >= 0) visit(static_cast<uint32_t>(open), repeat, per_repeat), ++count;
        repeat = Repeat{};
    };
    const Operand* operands[] = {&src};
    ForRuns<1>(it, operands, lanes, [&](const Run<1>& run) {
        const uint8_t* data = it.Read(src.at, run.at[0], run.count * size);
        for (uint64_t i = 0; i < run.count; ++i) {
            const uint64_t lane = run.lane + i;
            const auto number = static_cast<int64_t>(run.repeat + lane / per_repeat);
            if (number != open) close(), open = number;
            repeat.value[lane % per_repeat] = Get(src.type, data + i * size);
            repeat.used[lane % per_repeat] = true;
        }
    });
    close();
    return count;
}

/// Sums neighbours, then neighbours of the sums, as the adder tree of the unit does; each is rounded to the type.
float SumTree(Type type, const Repeat& repeat, uint32_t first, uint32_t count) {
    float sums[128];
    for (uint32_t i = 0; i < count; ++i) sums[i] = repeat.used[first + i] ? repeat.value[first + i] : 0;
    for (; count > 1; count /= 2)
        for (uint32_t i = 0; i < count / 2; ++i) sums[i] = Round(type, sums[2 * i] + sums[2 * i + 1]);
    return sums[0];
}

struct Best {
    float value = 0;
    uint32_t index = 0;
    bool any = false;
};

Best BestOf(Fold fold, const Repeat& repeat, uint32_t first, uint32_t count) {
    Best best;
    for (uint32_t i = first; i < first + count; ++i) {
        if (!repeat.used[i]) continue;
        const float value = repeat.value[i];
        const bool better = !best.any || (fold == Fold::Max ? value > best.value : value < best.value) ||
                            (std::isnan(value) && !std::isnan(best.value));
        if (better) best = {value, i, true};
    }
    return best;
}

float FoldPart(Fold fold, Type type, const Repeat& repeat, uint32_t first, uint32_t count, uint32_t& index) {
    if (fold == Fold::Sum) return SumTree(type, repeat, first, count);
    const Best best = BestOf(fold, repeat, first, count);
    index = best.index;
    return best.value;
}

}  // namespace

void FoldRepeats(Fold fold, const char* name, const Local& dst, const Operand& src, int64_t step, ReduceOrder order,
                 const Lanes& lanes, Where where) {
    Instruction it(PIPE_V, name, where);
    const uint32_t size = SizeOf(src.type);
    const bool both = fold != Fold::Sum && (order == ReduceOrder::ORDER_VALUE_INDEX || order == ReduceOrder::ORDER_INDEX_VALUE);
    const bool only_index = fold != Fold::Sum && order == ReduceOrder::ORDER_ONLY_INDEX;
    const uint32_t unit = both ? 2 * size : only_index ? 4 : size;
    it.RequireAligned(src.at, 32, "the source");
    it.RequireAligned(dst, unit, "the destination");
    const uint32_t repeats = ForRepeats(it, src, lanes, [&](uint32_t number, const Repeat& repeat, uint32_t lanes_a_repeat) {
        uint32_t index = 0;
        const float value = FoldPart(fold, src.type, repeat, 0, lanes_a_repeat, index);
        uint8_t* out = it.Write(dst, uint64_t(number) * step * unit, unit);
        if (only_index) {
            std::memcpy(out, &index, 4);
        } else {
            const bool index_first = both && order == ReduceOrder::ORDER_INDEX_VALUE;
            Put(src.type, out + (index_first ? size : 0), value);
            if (both) PutIndex(src.type, out + (index_first ? 0 : size), index);
        }
    });
    it.Takes(repeats * cost::REPEAT_FOLD);
}

void FoldBlocks(Fold fold, const char* name, const Local& dst, const Operand& src, int64_t step, const Lanes& lanes,
                Where where) {
    Instruction it(PIPE_V, name, where);
    const uint32_t size = SizeOf(src.type), in_block = 32 / size;
    it.RequireAligned(src.at, 32, "the source");
    it.RequireAligned(dst, 8 * size, "the destination");
    const uint32_t repeats = ForRepeats(it, src, lanes, [&](uint32_t number, const Repeat& repeat, uint32_t) {
        for (uint32_t block = 0; block < 8; ++block) {
            bool any = false;
            for (uint32_t i = 0; i < in_block; ++i) any = any || repeat.used[block * in_block + i];
            if (!any) continue;
            uint32_t index;
            const float value = FoldPart(fold, src.type, repeat, block * in_block, in_block, index);
            Put(src.type, it.Write(dst, (uint64_t(number) * step * 8 + block) * size, size), value);
        }
    });
    it.Takes(repeats * cost::REPEAT_FOLD);
}

void FoldPairs(const char* name, const Local& dst, const Operand& src, int64_t step, const Lanes& lanes, Where where) {
    Instruction it(PIPE_V, name, where);
    const uint32_t size = SizeOf(src.type);
    it.RequireAligned(src.at, 32, "the source");
    it.RequireAligned(dst, 32, "the destination");
    const uint32_t repeats = ForRepeats(it, src, lanes, [&](uint32_t number, const Repeat& repeat, uint32_t in_repeat) {
        for (uint32_t pair = 0; pair < in_repeat / 2; ++pair) {
            if (!repeat.used[2 * pair] && !repeat.used[2 * pair + 1]) continue;
            const uint64_t at = uint64_t(number) * step * 128 + pair * size;
            Put(src.type, it.Write(dst, at, size), SumTree(src.type, repeat, 2 * pair, 2));
        }
    });
    it.Takes(repeats * cost::REPEAT);
}

void FoldAll(Fold fold, const char* name, const Operand& dst, const Operand& src, const Local& work, bool index,
             const Lanes& lanes, Where where) {
    Instruction it(PIPE_V, name, where);
    const uint32_t size = SizeOf(src.type);
    it.RequireAligned(src.at, 32, "the source");
    it.RequireAligned(work, 32, "the workspace");
    it.RequireAligned(dst.at, index ? 2 * size : size, "the destination");
    std::vector<float> sums;
    Best best;
    const uint32_t repeats = ForRepeats(it, src, lanes, [&](uint32_t number, const Repeat& repeat, uint32_t in_repeat) {
        if (fold == Fold::Sum) {
            sums.push_back(SumTree(src.type, repeat, 0, in_repeat));
            return;
        }
        Best own = BestOf(fold, repeat, 0, in_repeat);
        own.index += number * in_repeat;
        const bool better = !best.any || (fold == Fold::Max ? own.value > best.value : own.value < best.value) ||
                            (std::isnan(own.value) && !std::isnan(best.value));
        if (better) best = own;
    });
    // Partial results of every repeat pass through the workspace.
    const uint64_t partial = uint64_t(repeats) * size * (index ? 2 : 1);
    it.Spoil(work, 0, RoundUp(partial, 32));
    double cycles = repeats * cost::REPEAT_FOLD;
    while (sums.size() > 1) {
        std::vector<float> next;
        for (size_t first = 0; first < sums.size(); first += 256 / size) {
            Repeat repeat{};
            const size_t count = std::min<size_t>(256 / size, sums.size() - first);
            for (size_t i = 0; i < count; ++i) repeat.value[i] = sums[first + i], repeat.used[i] = true;
            next.push_back(SumTree(src.type, repeat, 0, 256 / size));
        }
        cycles += next.size() * cost::REPEAT_FOLD + cost::VECTOR_SETTLES;
        sums = std::move(next);
    }
    uint8_t* out = it.Write(dst.at, 0, index ? 2 * size : size);
    Put(src.type, out, fold == Fold::Sum ? sums.empty() ? 0 : sums[0] : best.value);
    if (index) PutIndex(src.type, out + size, best.index);
    it.Takes(cycles);
}

void Broadcast(const Operand& dst, const Local& src, uint32_t repeats, Where where) {
    Instruction it(PIPE_V, "Brcb", where);
    const uint32_t size = SizeOf(dst.type);
    it.RequireAligned(src, 32, "the source");
    it.RequireAligned(dst.at, 32, "the destination");
    for (uint32_t repeat = 0; repeat < repeats; ++repeat) {
        const uint8_t* in = it.Read(src, uint64_t(repeat) * 8 * size, 8 * size);
        uint8_t values[32];
        std::memcpy(values, in, 8 * size);
        for (uint32_t block = 0; block < 8; ++block) {
            uint8_t* out = it.Write(dst.at, 32ull * (uint64_t(repeat) * dst.repeat + uint64_t(block) * dst.block), 32);
            for (uint32_t byte = 0; byte < 32; byte += size) std::memcpy(out + byte, values + block * size, size);
        }
    }
    it.Takes(repeats * cost::REPEAT);
}

void GatherAt(const Operand& dst, const Local& src, const Local& offsets, uint32_t base, const Lanes& lanes,
              Where where) {
    Instruction it(PIPE_V, "Gather", where);
    const uint32_t size = SizeOf(dst.type), per_repeat = 256 / size;
    it.RequireAligned(dst.at, 32, "the destination");
    it.RequireAligned(src, 32, "the source");
    it.RequireAligned(offsets, 32, "the offsets");
    const Operand* operands[] = {&dst};
    ForRuns<1>(it, operands, lanes, [&](const Run<1>& run) {
        const uint64_t first = uint64_t(run.repeat) * per_repeat + run.lane;
        for (uint64_t i = 0; i < run.count; ++i) {
            uint32_t offset;
            std::memcpy(&offset, it.Read(offsets, 4 * (first + i), 4), 4);
            it.Require((base + offset) % size == 0, "offset %u is no multiple of the %u bytes of an element",
                       base + offset, size);
            const uint8_t* in = it.Read(src, uint64_t(base) + offset, size);
            std::memcpy(it.Write(dst.at, run.at[0] + i * size, size), in, size);
        }
    });
    it.Takes(RepeatsOf(lanes, operands, 1) * cost::REPEAT_GATHER);
}

void GatherBlocks(const Operand& dst, const Local& src, const Local& offsets, uint32_t repeats, Where where) {
    Instruction it(PIPE_V, "Gatherb", where);
    it.RequireAligned(dst.at, 32, "the destination");
    it.RequireAligned(src, 32, "the source");
    it.RequireAligned(offsets, 32, "the offsets");
    for (uint32_t repeat = 0; repeat < repeats; ++repeat) {
        for (uint32_t block = 0; block < 8; ++block) {
            uint32_t offset;
            std::memcpy(&offset, it.Read(offsets, 4ull * (repeat * 8 + block), 4), 4);
            it.Require(offset % 32 == 0, "offset %u is no multiple of 32", offset);
            const uint8_t* in = it.Read(src, offset, 32);
            std::memcpy(it.Write(dst.at, 32ull * (uint64_t(repeat) * dst.repeat + uint64_t(block) * dst.block), 32), in, 32);
        }
    }
    it.Takes(repeats * cost::REPEAT_GATHER);
}

uint64_t Keep(const Operand& dst, const Operand& src, int pattern, const Local& bits, Type word, bool counted,
              uint32_t mask, const GatherMaskParams& params, Where where) {
    Instruction it(PIPE_V, "GatherMask", where);
    const uint32_t size = SizeOf(src.type), per_repeat = 256 / size, in_block = 32 / size;
    it.RequireAligned(dst.at, 32, "the destination");
    it.RequireAligned(src.at, 32, "the source");
    if (pattern == 0) it.RequireAligned(bits, 32, "the pattern");
    it.Require(pattern >= 0 && pattern <= 7, "pattern %d: 1 to 7 are there", pattern);
    it.Require(!counted || mask >= 1, "a mask of no elements");
    static_cast<void>(word);
    const uint32_t lanes = counted ? mask : per_repeat;
    const auto wanted = [&](uint32_t repeat, uint32_t lane) {
        switch (pattern) {
            case 1: return lane % 2 == 0;
            case 2: return lane % 2 == 1;
            case 3: case 4: case 5: case 6: return lane % 4 == uint32_t(pattern - 3);
            case 7: return true;
            default: break;
        }
        const uint64_t at = uint64_t(repeat) * params.src1RepeatStride * 32 + lane / 8;
        return (*it.Read(bits, at, 1) >> (lane % 8) & 1) != 0;
    };
    uint64_t kept = 0;
    for (uint32_t repeat = 0; repeat < params.repeatTimes; ++repeat) {
        for (uint32_t lane = 0; lane < lanes; ++lane) {
            if (!wanted(repeat, lane)) continue;
            const uint64_t at = 32ull * (uint64_t(repeat) * params.src0RepeatStride +
                                         uint64_t(lane / in_block) * params.src0BlockStride) +
                                lane % in_block * size;
            const uint8_t* in = it.Read(src.at, at, size);
            std::memmove(it.Write(dst.at, kept++ * size, size), in, size);
        }
    }
    Core& core = Me();
    it.Takes(params.repeatTimes * double((lanes + per_repeat - 1) / per_repeat) * cost::REPEAT);
    // The count comes back to the scalar unit, which waits for it.
    core.pipes[PIPE_S].time = std::max(core.pipes[PIPE_S].time, core.pipes[PIPE_V].time + cost::VECTOR_SETTLES);
    return kept;
}

namespace {

struct Pair {
    float score;
    uint8_t raw[4];
    uint32_t index;
};

Pair ReadPair(Type type, const uint8_t* at) {
    Pair pair{};
    pair.score = Get(type, at);
    std::memcpy(pair.raw, at, SizeOf(type));
    std::memcpy(&pair.index, at + 4, 4);
    return pair;
}

void WritePair(Type type, uint8_t* at, const Pair& pair) {
    std::memset(at, 0, 4);
    std::memcpy(at, pair.raw, SizeOf(type));
    std::memcpy(at + 4, &pair.index, 4);
}

}  // namespace

void SortThirtyTwo(const Operand& dst, const Local& score, const Local& index, uint32_t repeats, Where where) {
    Instruction it(PIPE_V, "Sort32", where);
    const uint32_t size = SizeOf(dst.type);
    it.RequireAligned(score, 32, "the scores");
    it.RequireAligned(index, 32, "the indices");
    it.RequireAligned(dst.at, 32, "the destination");
    it.Require(repeats <= 255, "%u repeats: 255 at most", repeats);
    for (uint32_t repeat = 0; repeat < repeats; ++repeat) {
        const uint8_t* scores = it.Read(score, uint64_t(repeat) * 32 * size, 32 * size);
        const uint8_t* indices = it.Read(index, uint64_t(repeat) * 128, 128);
        Pair pairs[32];
        for (int i = 0; i < 32; ++i) {
            pairs[i].score = Get(dst.type, scores + i * size);
            it.Require(!std::isnan(pairs[i].score), "score %d is not a number: no order is defined", i);
            std::memcpy(pairs[i].raw, scores + i * size, size);
            std::memcpy(&pairs[i].index, indices + 4 * i, 4);
        }
        std::stable_sort(pairs, pairs + 32, [](const Pair& a, const Pair& b) { return a.score > b.score; });
        uint8_t* out = it.Write(dst.at, uint64_t(repeat) * 256, 256);
        for (int i = 0; i < 32; ++i) WritePair(dst.type, out + 8 * i, pairs[i]);
    }
    it.Takes(repeats * cost::REPEAT_SORT);
}

void MergeSorted(const Operand& dst, const Local (&src)[4], const MrgSort4Info& info, Where where) {
    Instruction it(PIPE_V, "MrgSort", where);
    it.RequireAligned(dst.at, 32, "the destination");
    const int lists = info.validBit == 3 ? 2 : info.validBit == 7 ? 3 : info.validBit == 15 ? 4 : 0;
    it.Require(lists != 0, "validBit %u: 3, 7 and 15 are there", info.validBit);
    uint64_t total = 0;
    for (int i = 0; i < lists; ++i) {
        it.RequireAligned(src[i], 8, "a source");
        it.Require(info.elementLengths[i] <= 4095, "a list of %u: 4095 at most", info.elementLengths[i]);
        total += info.elementLengths[i];
    }
    for (int i = 1; info.repeatTimes > 1 && i < 4; ++i)
        it.Require(lists == 4 && !info.ifExhaustedSuspension && info.elementLengths[i] == info.elementLengths[0] &&
                       src[i].start == src[i - 1].start + 8u * info.elementLengths[0],
                   "repeats want four lists of one length, one behind the other, and no suspension");
    uint64_t* taken = Me().result;
    for (uint32_t repeat = 0; repeat < info.repeatTimes; ++repeat) {
        const uint64_t skip = repeat * total * 8;
        std::fill(taken, taken + 4, 0);
        for (uint64_t done = 0; done < total; ++done) {
            int best = -1;
            Pair head{};
            bool exhausted = false;
            for (int i = 0; i < lists; ++i) {
                if (taken[i] == info.elementLengths[i]) {
                    exhausted = true;
                    continue;
                }
                const Pair pair = ReadPair(dst.type, it.Read(src[i], skip + 8 * taken[i], 8));
                if (best < 0 || pair.score > head.score) best = i, head = pair;
            }
            if (best < 0 || (exhausted && info.ifExhaustedSuspension)) break;
            ++taken[best];
            WritePair(dst.type, it.Write(dst.at, skip + 8 * done, 8), head);
        }
    }
    it.Takes(info.repeatTimes * (double(total) * 0.5 + cost::REPEAT_SORT));
}

uint16_t Merged(int list) { return static_cast<uint16_t>(Me().result[list]); }

void TransposeTile(const Operand& dst, const Operand& src, Where where) {
    Instruction it(PIPE_V, "Transpose", where);
    it.RequireAligned(dst.at, 32, "the destination");
    it.RequireAligned(src.at, 32, "the source");
    uint16_t in[256], out[256];
    std::memcpy(in, it.Read(src.at, 0, 512), 512);
    for (int row = 0; row < 16; ++row)
        for (int column = 0; column < 16; ++column) out[column * 16 + row] = in[row * 16 + column];
    std::memcpy(it.Write(dst.at, 0, 512), out, 512);
    it.Takes(2 * cost::REPEAT_GATHER);
}

void TransposeRows(const uint64_t* dst, const uint64_t* src, Type type, const TransDataTo5HDParams& params,
                   Where where) {
    Instruction it(PIPE_V, "TransDataTo5HD", where);
    const uint32_t size = SizeOf(type), columns = 32 / size;
    const uint32_t end = Me().memories[static_cast<int>(Memory::UB)].size;
    const auto at = [&](uint64_t address) {
        it.Require(address % 32 == 0 && address + 32 <= end, "address %#lx: a block of UB, aligned to 32, is wanted",
                   (unsigned long)address);
        return Local{Memory::UB, TPosition::VECCALC, static_cast<uint32_t>(address), end, nullptr};
    };
    for (uint32_t repeat = 0; repeat < params.repeatTimes; ++repeat) {
        uint8_t rows[16][32];
        for (int row = 0; row < 16; ++row)
            std::memcpy(rows[row], it.Read(at(src[row]), 32ull * repeat * params.srcRepStride, 32), 32);
        // Elements of 32 bits: sixteen rows of eight give eight rows of sixteen, each in two of the blocks.
        const uint32_t halves = 16 / columns;
        for (uint32_t row = 0; row < 16; ++row) {
            uint8_t out[32];
            const uint32_t column = row / halves, first = row % halves * columns;
            for (uint32_t i = 0; i < columns; ++i) std::memcpy(out + i * size, rows[first + i] + column * size, size);
            std::memcpy(it.Write(at(dst[row]), 32ull * repeat * params.dstRepStride, 32), out, 32);
        }
    }
    it.Takes(params.repeatTimes * 2 * cost::REPEAT_GATHER);
}

}  // namespace AscendC::twin
