// A sigmoid an expert; the choice is by score plus bias, within the groups that rank best, and the weights are the scores.
#include "gating.h"

#define ENTRY(NAME, TYPE)                                                                                  \
    extern "C" __global__ __aicore__ void gating_sigmoid_##NAME(GM_ADDR logits, GM_ADDR bias,              \
                                                                GM_ADDR weights, GM_ADDR experts,          \
                                                                GM_ADDR workspace, GM_ADDR tiling)         \
    {                                                                                                      \
        KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);                                                    \
        npu::Gating<TYPE, true>(logits, bias, weights, experts, tiling).Process();                         \
    }

FOR_FLOATS(ENTRY)
