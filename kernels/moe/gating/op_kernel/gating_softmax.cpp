// Softmax over all experts, and the k most likely of them.
#include "gating.h"

#define ENTRY(NAME, TYPE)                                                                                  \
    extern "C" __global__ __aicore__ void gating_softmax_##NAME(GM_ADDR logits, GM_ADDR weights,           \
                                                                GM_ADDR experts, GM_ADDR workspace,        \
                                                                GM_ADDR tiling)                            \
    {                                                                                                      \
        KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_AIV_ONLY);                                                    \
        npu::Gating<TYPE, false>(logits, nullptr, weights, experts, tiling).Process();                     \
    }

FOR_FLOATS(ENTRY)
