// Absorbed latent attention of one query a sequence: all heads share one cached row a token, whose first columns are its
// value too. Heads are rows of the cube's left operand, so that each cached row is brought in for all of them at once.
#include "../../common/paged.h"

#define ENTRY(name, type)                                                                                              \
    extern "C" __global__ __aicore__ void mla_decode_##name(GM_ADDR q, GM_ADDR cache, GM_ADDR table, GM_ADDR lengths,   \
                                                            GM_ADDR y, GM_ADDR workspace, GM_ADDR tiling)               \
    {                                                                                                                  \
        KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);                                                             \
        npu::Decode<type>(q, cache, cache, table, lengths, y, workspace, tiling);                                      \
    }
ENTRY(f16, half)
ENTRY(bf16, bfloat16_t)
#undef ENTRY
