// The choice of k experts for each token, shared by both kinds of gating.
//
// A row of logits lies in local memory as `slots`: each group of experts starts a run of a multiple of 32 of them, which
// is what one sorting instruction takes, and slots without an expert hold minus infinity. Sorted runs are merged four at
// a time, and of each only its best take part: what is not among the best of its run is not among the best of all.
// A logit that is no number stops the device (Trap), as nothing could be chosen by it.
#pragma once
#include "../../../common/vector.h"
#include "gating_tiling.h"

namespace npu {

template <typename T, bool SIGMOID>
class Gating {
public:
    __aicore__ inline Gating(GM_ADDR logits, GM_ADDR bias, GM_ADDR weights, GM_ADDR experts, GM_ADDR tiling)
        : t(ReadTiling<GatingTiling>(tiling)), share(t.tokens), slots(t.groups * t.segment), size(t.experts / t.groups),
          inSegment(RoundUp(t.experts / t.groups, BLOCK_BYTES / sizeof(T))), outRow(RoundUp(t.k, BLOCK_FLOATS))
    {
        uint64_t chosen = static_cast<uint64_t>(t.tokens) * t.k;
        logitsGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ T*>(logits), static_cast<uint64_t>(t.tokens) * t.experts);
        weightsGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(weights), chosen);
        expertsGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ int32_t*>(experts), chosen);
        if (t.has_bias != 0) {
            biasGlobal.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(bias), t.experts);
        }
        uint32_t tile = RoundUp(t.tile_rows * slots, LANES) * sizeof(float);
        uint32_t in = t.tile_rows * t.groups * inSegment * sizeof(T);
        if (SIGMOID) {
            in = in < slots * sizeof(float) ? slots * sizeof(float) : in; // The bias comes in by the same queue.
        }
        uint32_t out = t.tile_rows * outRow * sizeof(float);
        pipe.InitBuffer(inQueue, 2, RoundUp(in, 256));
        pipe.InitBuffer(weightQueue, 2, RoundUp(out, 256));
        pipe.InitBuffer(expertQueue, 2, RoundUp(out, 256));
        pipe.InitBuffer(rawBuffer, tile);
        pipe.InitBuffer(scoreBuffer, tile);
        if (SIGMOID) {
            pipe.InitBuffer(rankBuffer, tile);
        }
        pipe.InitBuffer(pairBuffer, RoundUp(slots * 8, 256));
        pipe.InitBuffer(mergeBuffer, RoundUp(t.merge_pairs * 8 + 8, 256));
        pipe.InitBuffer(indexBuffer, slots * sizeof(float));
        pipe.InitBuffer(ownerBuffer, slots * sizeof(float));
        pipe.InitBuffer(biasBuffer, slots * sizeof(float));
        pipe.InitBuffer(slotWordBuffer, RoundUp(outRow * sizeof(float), 256));
        pipe.InitBuffer(placeBuffer, RoundUp(out, 256));
        pipe.InitBuffer(offsetBuffer, RoundUp(out, 256));
        pipe.InitBuffer(workBuffer, SumWork(slots) * sizeof(float));
        pipe.InitBuffer(rowBuffer, RoundUp(t.tile_rows, LANES) * sizeof(float));
        pipe.InitBuffer(spreadBuffer, RoundUp(t.tile_rows, BLOCK_FLOATS) * BLOCK_BYTES);
    }

    __aicore__ inline void Process()
    {
        if (share.count == 0) {
            return;
        }
        Prepare();
        for (uint32_t done = 0; done < share.count; done += t.tile_rows) {
            rows = Smaller(t.tile_rows, share.count - done);
            Tile(share.first + done);
        }
    }

private:
    // Runs of one row: 64 hold 2048 slots, more experts than there are models for. The host refuses more.
    static constexpr uint32_t RUNS_MOST = 64;

    // Sorted runs of pairs: where each starts in its buffer, and how many of it take part.
    struct Runs {
        uint32_t count;
        uint32_t start[RUNS_MOST];
        uint16_t length[RUNS_MOST];
        bool merged[RUNS_MOST]; // In `mergeBuffer`, and otherwise in `pairBuffer`.
    };

    // What experts are sorted by: logits, or scores with their bias.
    __aicore__ inline LocalTensor<float> Ranks()
    {
        return SIGMOID ? rankBuffer.Get<float>() : rawBuffer.Get<float>();
    }

    __aicore__ inline uint32_t TileSlots()
    {
        return RoundUp(t.tile_rows * slots, LANES);
    }

    // What stays the same for all rows of this block.
    __aicore__ inline void Prepare()
    {
        CreateVecIndex(indexBuffer.Get<int32_t>(), 0, slots);
        // Where the slots are in a run of pairs, in bytes.
        LocalTensor<int32_t> slotWords = slotWordBuffer.Get<int32_t>();
        CreateVecIndex(slotWords, 0, outRow);
        PipeBarrier<PIPE_V>();
        Muls(slotWords, slotWords, 8, static_cast<int32_t>(outRow));
        PipeBarrier<PIPE_V>();
        Adds(slotWords, slotWords, 4, static_cast<int32_t>(outRow));
        for (uint32_t group = 0; group < t.groups; ++group) {
            CreateVecIndex(ownerBuffer.Get<int32_t>()[group * t.segment], static_cast<int32_t>(group * size), t.segment);
        }
        Duplicate(rawBuffer.Get<float>(), MinusInfinity(), static_cast<int32_t>(TileSlots()));
        Duplicate(placeBuffer.Get<int32_t>(), 0, static_cast<int32_t>(t.tile_rows * outRow));
        Duplicate(rowBuffer.Get<float>(), 0.0f, static_cast<int32_t>(RoundUp(t.tile_rows, LANES)));
        if constexpr (SIGMOID) {
            LocalTensor<float> bias = biasBuffer.Get<float>();
            Duplicate(bias, MinusInfinity(), static_cast<int32_t>(slots));
            PipeBarrier<PIPE_V>();
            if (t.has_bias == 0) {
                for (uint32_t group = 0; group < t.groups; ++group) {
                    Duplicate(bias[group * t.segment], 0.0f, static_cast<int32_t>(size));
                }
            } else {
                uint32_t run = RoundUp(size, BLOCK_FLOATS);
                LocalTensor<float> local = inQueue.template AllocTensor<float>();
                CopyIn(local, biasGlobal, t.groups, size);
                inQueue.EnQue(local);
                local = inQueue.template DeQue<float>();
                for (uint32_t group = 0; group < t.groups; ++group) {
                    Widen(bias[group * t.segment], local[group * run], size);
                }
                PipeBarrier<PIPE_V>();
                inQueue.FreeTensor(local);
            }
        }
        PipeBarrier<PIPE_V>();
    }

    __aicore__ inline void Tile(uint32_t row)
    {
        LoadLogits(row);
        LocalTensor<float> scores = scoreBuffer.Get<float>();
        if constexpr (SIGMOID) {
            SigmoidScores();
        } else {
            Muls(scores, rawBuffer.Get<float>(), 1.0f / 65536, static_cast<int32_t>(rows * slots));
            PipeBarrier<PIPE_V>();
        }
        RefuseNaN(scores);
        for (uint32_t r = 0; r < rows; ++r) {
            Choose(r);
        }
        // The slots chosen, as byte offsets into their row's scores and into the table of their experts.
        ShiftLeft(offsetBuffer.Get<int32_t>(), placeBuffer.Get<int32_t>(), 2, static_cast<int32_t>(rows * outRow));
        PipeBarrier<PIPE_V>();
        LocalTensor<int32_t> experts = expertQueue.template AllocTensor<int32_t>();
        Gather(experts, ownerBuffer.Get<int32_t>(), offsetBuffer.Get<uint32_t>(), 0, rows * outRow);
        expertQueue.EnQue(experts);
        LocalTensor<float> weights = weightQueue.template AllocTensor<float>();
        if constexpr (SIGMOID) {
            GatherRows(weights, scores);
        } else {
            SoftmaxScores(weights);
            GatherRows(weights, scores);
            SumRows(scores);
            SpreadRows();
            Div(weights, weights, spreadBuffer.Get<float>(), static_cast<uint64_t>(t.k), static_cast<uint8_t>(rows), ByRow());
            PipeBarrier<PIPE_V>();
        }
        Finish(weights);
        weightQueue.EnQue(weights);
        Store(row);
    }

    // Each operand's row of results beside a block that holds one number for the row.
    __aicore__ inline BinaryRepeatParams ByRow()
    {
        uint8_t blocks = static_cast<uint8_t>(outRow / BLOCK_FLOATS);
        return BinaryRepeatParams{1, 1, 0, blocks, blocks, 1};
    }

    __aicore__ inline void LoadLogits(uint32_t row)
    {
        LocalTensor<T> local = inQueue.template AllocTensor<T>();
        CopyIn(local, logitsGlobal[static_cast<uint64_t>(row) * t.experts], rows * t.groups, size);
        inQueue.EnQue(local);
        local = inQueue.template DeQue<T>();
        LocalTensor<float> raw = rawBuffer.Get<float>();
        if (t.segment == size) {
            Widen(raw, local, rows * slots);
        } else {
            for (uint32_t run = 0; run < rows * t.groups; ++run) {
                Widen(raw[run * t.segment], local[run * inSegment], size);
            }
        }
        PipeBarrier<PIPE_V>();
        inQueue.FreeTensor(local);
    }

    // scores = 1 / (1 + exp(-raw)), and ranks = scores + bias. An empty slot scores nothing and ranks last by the bias.
    __aicore__ inline void SigmoidScores()
    {
        LocalTensor<float> raw = rawBuffer.Get<float>();
        LocalTensor<float> scores = scoreBuffer.Get<float>();
        int32_t count = static_cast<int32_t>(TileSlots());
        Muls(scores, raw, -1.0f, count);
        PipeBarrier<PIPE_V>();
        Exp(scores, scores, count);
        PipeBarrier<PIPE_V>();
        Adds(scores, scores, 1.0f, count);
        LocalTensor<float> one = spreadBuffer.Get<float>();
        Duplicate(one, 1.0f, static_cast<int32_t>(BLOCK_FLOATS));
        PipeBarrier<PIPE_V>();
        uint32_t repeats = TileSlots() / LANES;
        for (uint32_t done = 0; done < repeats; done += MOST_REPEATS) {
            auto part = scores[done * LANES];
            uint8_t some = static_cast<uint8_t>(Smaller(MOST_REPEATS, repeats - done));
            Div(part, one, part, static_cast<uint64_t>(LANES), some, {1, 0, 1, 8, 0, 8});
        }
        PipeBarrier<PIPE_V>();
        for (uint32_t r = 0; r < rows; ++r) {
            Add(rankBuffer.Get<float>()[r * slots], scores[r * slots], biasBuffer.Get<float>(), static_cast<int32_t>(slots));
        }
        PipeBarrier<PIPE_V>();
    }

    // Numbers that are none have no order. A row's sum says so, of numbers small enough that no sum of finite ones overflows.
    __aicore__ inline void RefuseNaN(const LocalTensor<float>& of)
    {
        SumRows(of);
        Await<HardEvent::V_S>();
        for (uint32_t r = 0; r < rows; ++r) {
            float sum = rowBuffer.Get<float>().GetValue(r);
            if (sum != sum) {
                Trap();
            }
        }
        Await<HardEvent::S_V>();
    }

    // The slots of row r's best k, the best first, to its part of `placeBuffer`.
    __aicore__ inline void Choose(uint32_t r)
    {
        LocalTensor<float> pairs = pairBuffer.Get<float>();
        Sort32(pairs, Ranks()[r * slots], indexBuffer.Get<uint32_t>(), static_cast<int32_t>(slots / 32));
        PipeBarrier<PIPE_V>();
        mergeEnd = 0;
        Runs runs;
        runs.count = 0;
        if (SIGMOID && t.kept_groups < t.groups) {
            KeepGroups(runs);
        } else {
            Sorted(runs, 0, slots / 32);
        }
        Merge(runs, t.k);
        LocalTensor<uint32_t> best = Run(runs, 0).template ReinterpretCast<uint32_t>();
        // GatherMask would do, and hold up the scalar unit for its count.
        Gather(placeBuffer.Get<uint32_t>()[r * outRow], best, slotWordBuffer.Get<uint32_t>(), 0, t.k);
        PipeBarrier<PIPE_V>();
    }

    __aicore__ inline void Sorted(Runs& runs, uint32_t first, uint32_t count)
    {
        for (uint32_t i = 0; i < count; ++i) {
            runs.start[runs.count] = (first + i) * 32;
            runs.length[runs.count] = 32;
            runs.merged[runs.count] = false;
            runs.count += 1;
        }
    }

    __aicore__ inline LocalTensor<float> Run(const Runs& runs, uint32_t i)
    {
        LocalTensor<float> buffer = runs.merged[i] ? mergeBuffer.Get<float>() : pairBuffer.Get<float>();
        return buffer[runs.start[i] * 2];
    }

    // All runs become one, of which the best `keep` are right.
    __aicore__ inline void Merge(Runs& runs, uint32_t keep)
    {
        while (runs.count > 1) {
            uint32_t made = 0;
            for (uint32_t i = 0; i < runs.count; i += 4, ++made) {
                uint32_t together = Smaller(4, runs.count - i);
                if (together == 1) {
                    runs.start[made] = runs.start[i];
                    runs.length[made] = runs.length[i];
                    runs.merged[made] = runs.merged[i];
                    continue;
                }
                MrgSort4Info info;
                uint32_t length = 0;
                for (uint32_t j = 0; j < together; ++j) {
                    info.elementLengths[j] = static_cast<uint16_t>(Smaller(runs.length[i + j], keep));
                    length += info.elementLengths[j];
                }
                info.validBit = static_cast<uint16_t>((1 << together) - 1);
                info.repeatTimes = 1;
                MrgSortSrcList<float> sources;
                sources.src1 = Run(runs, i);
                sources.src2 = Run(runs, i + 1);
                sources.src3 = Run(runs, together > 2 ? i + 2 : i);
                sources.src4 = Run(runs, together > 3 ? i + 3 : i);
                MrgSort(mergeBuffer.Get<float>()[mergeEnd * 2], sources, info);
                runs.start[made] = mergeEnd;
                runs.length[made] = static_cast<uint16_t>(length);
                runs.merged[made] = true;
                mergeEnd += RoundUp(length, 4);
            }
            runs.count = made;
            PipeBarrier<PIPE_V>();
        }
    }

    // The runs of the groups that rank best by the sum of their two best experts.
    __aicore__ inline void KeepGroups(Runs& kept)
    {
        Runs groups;
        groups.count = 0;
        for (uint32_t group = 0; group < t.groups; ++group) {
            Runs of;
            of.count = 0;
            Sorted(of, group * (t.segment / 32), t.segment / 32);
            Merge(of, t.k < 2 ? 2 : t.k);
            groups.start[group] = of.start[0];
            groups.length[group] = of.length[0];
            groups.merged[group] = of.merged[0];
            groups.count += 1;
        }
        Await<HardEvent::V_S>();
        float rank[RUNS_MOST];
        for (uint32_t group = 0; group < t.groups; ++group) {
            LocalTensor<float> run = Run(groups, group);
            rank[group] = size > 1 ? run.GetValue(0) + run.GetValue(2) : run.GetValue(0);
        }
        // The next row's sort overwrites what was read.
        Await<HardEvent::S_V>();
        bool chosen[RUNS_MOST];
        for (uint32_t group = 0; group < t.groups; ++group) {
            chosen[group] = false;
        }
        for (uint32_t i = 0; i < t.kept_groups; ++i) {
            uint32_t best = t.groups;
            for (uint32_t group = 0; group < t.groups; ++group) {
                if (!chosen[group] && (best == t.groups || rank[group] > rank[best])) {
                    best = group;
                }
            }
            chosen[best] = true;
        }
        // In the experts' order, which decides between equals.
        for (uint32_t group = 0; group < t.groups; ++group) {
            if (chosen[group]) {
                kept.start[kept.count] = groups.start[group];
                kept.length[kept.count] = groups.length[group];
                kept.merged[kept.count] = groups.merged[group];
                kept.count += 1;
            }
        }
    }

    // scores = exp(raw - the row's greatest number). `scratch` is a tile of results, free to be used.
    __aicore__ inline void SoftmaxScores(const LocalTensor<float>& scratch)
    {
        LocalTensor<float> raw = rawBuffer.Get<float>();
        LocalTensor<float> scores = scoreBuffer.Get<float>();
        LocalTensor<float> greatest = workBuffer.Get<float>();
        GatherRows(scratch, raw);
        for (uint32_t r = 0; r < rows; ++r) {
            Brcb(greatest, scratch[r * outRow], 1, {1, 8});
            PipeBarrier<PIPE_V>();
            uint32_t whole = slots / LANES;
            BinaryRepeatParams along{1, 1, 0, 8, 8, 0};
            if (whole != 0) {
                Sub(scores[r * slots], raw[r * slots], greatest, static_cast<uint64_t>(LANES), static_cast<uint8_t>(whole), along);
            }
            if (slots % LANES != 0) {
                uint32_t at = r * slots + whole * LANES;
                Sub(scores[at], raw[at], greatest, static_cast<uint64_t>(slots % LANES), 1, along);
            }
            PipeBarrier<PIPE_V>();
        }
        Exp(scores, scores, static_cast<int32_t>(rows * slots));
        PipeBarrier<PIPE_V>();
    }

    __aicore__ inline void GatherRows(const LocalTensor<float>& to, const LocalTensor<float>& from)
    {
        for (uint32_t r = 0; r < rows; ++r) {
            Gather(to[r * outRow], from, offsetBuffer.Get<uint32_t>()[r * outRow], r * slots * 4, outRow);
        }
        PipeBarrier<PIPE_V>();
    }

    __aicore__ inline void SumRows(const LocalTensor<float>& of)
    {
        for (uint32_t r = 0; r < rows; ++r) {
            SumInto(rowBuffer.Get<float>()[r], of[r * slots], workBuffer.Get<float>(), slots);
        }
    }

    // A block of each row's number.
    __aicore__ inline void SpreadRows()
    {
        Brcb(spreadBuffer.Get<float>(), rowBuffer.Get<float>(), static_cast<uint8_t>((rows + 7) / 8), {1, 8});
        PipeBarrier<PIPE_V>();
    }

    __aicore__ inline void Finish(const LocalTensor<float>& weights)
    {
        if (t.renormalise != 0) {
            uint8_t blocks = static_cast<uint8_t>(outRow / BLOCK_FLOATS);
            WholeReduceSum(rowBuffer.Get<float>(), weights, static_cast<int32_t>(t.k), static_cast<int32_t>(rows), 1, 1, blocks);
            PipeBarrier<PIPE_V>();
            // Lest a row of vanishing scores divides by zero; below the rounding of F32 otherwise.
            Adds(rowBuffer.Get<float>(), rowBuffer.Get<float>(), 1e-20f, static_cast<int32_t>(rows));
            PipeBarrier<PIPE_V>();
            SpreadRows();
            Div(weights, weights, spreadBuffer.Get<float>(), static_cast<uint64_t>(t.k), static_cast<uint8_t>(rows), ByRow());
            PipeBarrier<PIPE_V>();
        }
        Muls(weights, weights, FloatOfBits(t.factor_bits), static_cast<int32_t>(rows * outRow));
    }

    __aicore__ inline void Store(uint32_t row)
    {
        uint64_t at = static_cast<uint64_t>(row) * t.k;
        LocalTensor<int32_t> experts = expertQueue.template DeQue<int32_t>();
        CopyOut(expertsGlobal[at], experts, rows, t.k);
        expertQueue.FreeTensor(experts);
        LocalTensor<float> weights = weightQueue.template DeQue<float>();
        CopyOut(weightsGlobal[at], weights, rows, t.k);
        weightQueue.FreeTensor(weights);
    }

    GatingTiling t;
    Share share;
    uint32_t slots;     // of a row
    uint32_t size;      // experts of a group
    uint32_t inSegment; // elements between groups as they come in
    uint32_t outRow;    // elements between rows of results in local memory
    uint32_t rows;      // of this tile
    uint32_t mergeEnd;  // pairs of `mergeBuffer` in use
    TPipe pipe;
    TQue<TPosition::VECIN, 2> inQueue;
    TQue<TPosition::VECOUT, 2> weightQueue, expertQueue;
    TBuf<TPosition::VECCALC> rawBuffer, scoreBuffer, rankBuffer, pairBuffer, mergeBuffer, indexBuffer;
    TBuf<TPosition::VECCALC> ownerBuffer, biasBuffer, slotWordBuffer, placeBuffer, offsetBuffer, workBuffer, rowBuffer;
    TBuf<TPosition::VECCALC> spreadBuffer;
    GlobalTensor<T> logitsGlobal;
    GlobalTensor<float> biasGlobal, weightsGlobal;
    GlobalTensor<int32_t> expertsGlobal;
};

} // namespace npu
