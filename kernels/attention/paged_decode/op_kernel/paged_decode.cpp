// Attention of one query a sequence over paged keys and values, with shared key heads.
#include "../../common/paged.h"

#define ENTRY(name, type)                                                                                              \
    extern "C" __global__ __aicore__ void paged_decode_##name(GM_ADDR q, GM_ADDR k, GM_ADDR v, GM_ADDR table,           \
                                                              GM_ADDR lengths, GM_ADDR y, GM_ADDR workspace,           \
                                                              GM_ADDR tiling)                                          \
    {                                                                                                                  \
        KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);                                                             \
        npu::Decode<type>(q, k, v, table, lengths, y, workspace, tiling);                                              \
    }
ENTRY(f16, half)
ENTRY(bf16, bfloat16_t)
#undef ENTRY
