// Kernels that each break one rule, and two that break none. The line that breaks it ends in `// fault`; where two lines
// are at odds, the later one does.
#include "kernel_operator.h"

using namespace AscendC;

namespace {

constexpr uint32_t COUNT = 256;
constexpr uint32_t BYTES = COUNT * sizeof(float);

GlobalTensor<float> Tensor(GM_ADDR address, uint32_t count = 4 * COUNT)
{
    GlobalTensor<float> tensor;
    tensor.SetGlobalBuffer(reinterpret_cast<__gm__ float*>(address), count);
    return tensor;
}

template <HardEvent EVENT>
void Await()
{
    SetFlag<EVENT>(EVENT_ID7);
    WaitFlag<EVENT>(EVENT_ID7);
}

// Local memory without queues, for the flags to be seen.
struct Buffers {
    TPipe pipe;
    TBuf<TPosition::VECCALC> first, second;
    LocalTensor<float> a, b;
    Buffers()
    {
        pipe.InitBuffer(first, BYTES);
        pipe.InitBuffer(second, BYTES);
        a = first.Get<float>();
        b = second.Get<float>();
    }
};

}  // namespace

#define KERNEL(NAME, TYPE)                                               \
    static void NAME##_body(GM_ADDR x, GM_ADDR y);                       \
    extern "C" __global__ __aicore__ void NAME(GM_ADDR x, GM_ADDR y)     \
    {                                                                    \
        KERNEL_TASK_TYPE_DEFAULT(TYPE);                                  \
        NAME##_body(x, y);                                               \
    }                                                                    \
    static void NAME##_body([[maybe_unused]] GM_ADDR x, [[maybe_unused]] GM_ADDR y)
#define VECTOR_KERNEL(NAME) KERNEL(NAME, KERNEL_TYPE_AIV_ONLY)
#define MIXED_KERNEL(NAME) KERNEL(NAME, KERNEL_TYPE_MIX_AIC_1_2)

// ---- kernels that break none ----

VECTOR_KERNEL(clean_queues)
{
    TPipe pipe;
    TQue<TPosition::VECIN, 2> in;
    TQue<TPosition::VECOUT, 2> out;
    pipe.InitBuffer(in, 2, BYTES);
    pipe.InitBuffer(out, 2, BYTES);
    for (int i = 0; i < 4; ++i) {
        LocalTensor<float> loading = in.AllocTensor<float>();
        DataCopy(loading, Tensor(x)[i * COUNT], COUNT);
        in.EnQue(loading);
        LocalTensor<float> loaded = in.DeQue<float>();
        LocalTensor<float> result = out.AllocTensor<float>();
        Muls(result, loaded, 2.0f, COUNT);
        PipeBarrier<PIPE_V>();
        Adds(result, result, 1.0f, COUNT);
        in.FreeTensor(loaded);
        out.EnQue(result);
        LocalTensor<float> storing = out.DeQue<float>();
        DataCopy(Tensor(y)[i * COUNT], storing, COUNT);
        out.FreeTensor(storing);
    }
}

// Every vector core hands its number on to the cube core's partner and back: flags of all three modes.
MIXED_KERNEL(clean_cores)
{
    if ASCEND_IS_AIV {
        Buffers buffers;
        Duplicate(buffers.a, float(GetBlockIdx()), COUNT);
        Await<HardEvent::V_MTE3>();
        DataCopy(Tensor(x)[GetBlockIdx() * 8], buffers.a, 8);
        CrossCoreSetFlag<0, PIPE_MTE3>(1);
        CrossCoreWaitFlag(1);
        DataCopy(buffers.b, Tensor(x)[(GetBlockIdx() ^ 3) * 8], 8);
        Await<HardEvent::MTE2_MTE3>();
        DataCopy(Tensor(y)[GetBlockIdx() * 8], buffers.b, 8);
        CrossCoreSetFlag<2, PIPE_MTE3>(2);
    } else {
        CrossCoreWaitFlag(2);
    }
}

// ---- buffers and tensors ----

VECTOR_KERNEL(too_much_ub)
{
    TPipe pipe;
    TBuf<TPosition::VECCALC> one, two;
    pipe.InitBuffer(one, 100 * 1024);
    pipe.InitBuffer(two, 93 * 1024);  // fault
}

MIXED_KERNEL(too_much_l1)
{
    TPipe pipe;
    TQue<TPosition::A1, 2> one;
    pipe.InitBuffer(one, 2, 257 * 1024);  // fault
}

MIXED_KERNEL(too_much_l0a)
{
    TPipe pipe;
    TQue<TPosition::A2, 1> one;
    pipe.InitBuffer(one, 1, 65 * 1024);  // fault
}

MIXED_KERNEL(too_much_l0b)
{
    TPipe pipe;
    TQue<TPosition::B2, 1> one;
    pipe.InitBuffer(one, 1, 65 * 1024);  // fault
}

MIXED_KERNEL(too_much_l0c)
{
    TPipe pipe;
    TQue<TPosition::CO1, 1> one;
    pipe.InitBuffer(one, 1, 129 * 1024);  // fault
}

VECTOR_KERNEL(beyond_its_tensor)
{
    Buffers buffers;
    Duplicate(buffers.a, 1.0f, COUNT + 8);  // fault
}

VECTOR_KERNEL(beyond_its_global_tensor)
{
    Buffers buffers;
    DataCopy(buffers.a, Tensor(x, COUNT)[8], COUNT);  // fault
}

VECTOR_KERNEL(outside_of_allocations)
{
    Buffers buffers;
    DataCopy(buffers.a, Tensor(x, 1 << 20)[1 << 18], COUNT);  // fault
}

VECTOR_KERNEL(past_an_allocation)
{
    Buffers buffers;
    DataCopy(buffers.a, Tensor(x, 1 << 20)[4 * COUNT - 8], COUNT);  // fault
}

// ---- alignment ----

VECTOR_KERNEL(odd_length)
{
    Buffers buffers;
    DataCopy(buffers.a, Tensor(x), 9);  // fault
}

VECTOR_KERNEL(odd_place)
{
    Buffers buffers;
    DataCopy(buffers.a[1], Tensor(x), 8);  // fault
}

VECTOR_KERNEL(odd_operand)
{
    Buffers buffers;
    Duplicate(buffers.a, 1.0f, COUNT);
    PipeBarrier<PIPE_V>();
    Adds(buffers.b, buffers.a[3], 1.0f, 8);  // fault
}

VECTOR_KERNEL(ragged_comparison)
{
    Buffers buffers;
    Duplicate(buffers.a, 1.0f, COUNT);
    PipeBarrier<PIPE_V>();
    CompareScalar(buffers.b.ReinterpretCast<uint8_t>(), buffers.a, 0.0f, CMPMODE::GT, 40);  // fault
}

VECTOR_KERNEL(no_such_conversion)
{
    Buffers buffers;
    Duplicate(buffers.a, 1.0f, COUNT);
    PipeBarrier<PIPE_V>();
    Cast(buffers.b.ReinterpretCast<bfloat16_t>(), buffers.a, RoundMode::CAST_NONE, 16);  // fault
}

// ---- queues ----

VECTOR_KERNEL(taken_from_an_empty_queue)
{
    TPipe pipe;
    TQue<TPosition::VECIN, 1> in;
    pipe.InitBuffer(in, 1, BYTES);
    in.DeQue<float>();  // fault
}

VECTOR_KERNEL(allocated_twice)
{
    TPipe pipe;
    TQue<TPosition::VECIN, 1> in;
    pipe.InitBuffer(in, 1, BYTES);
    in.AllocTensor<float>();
    in.AllocTensor<float>();  // fault
}

VECTOR_KERNEL(deeper_than_its_depth)
{
    TPipe pipe;
    TQue<TPosition::VECIN, 1> in;
    pipe.InitBuffer(in, 2, BYTES);
    LocalTensor<float> one = in.AllocTensor<float>(), two = in.AllocTensor<float>();
    in.EnQue(one);
    in.EnQue(two);  // fault
}

VECTOR_KERNEL(freed_in_the_queue)
{
    TPipe pipe;
    TQue<TPosition::VECIN, 1> in;
    pipe.InitBuffer(in, 1, BYTES);
    LocalTensor<float> one = in.AllocTensor<float>();
    in.EnQue(one);
    in.FreeTensor(one);  // fault
}

VECTOR_KERNEL(queued_after_it_was_freed)
{
    TPipe pipe;
    TQue<TPosition::VECIN, 1> in;
    pipe.InitBuffer(in, 1, BYTES);
    LocalTensor<float> one = in.AllocTensor<float>();
    in.FreeTensor(one);
    in.EnQue(one);  // fault
}

// ---- local memory ----

VECTOR_KERNEL(never_written)
{
    Buffers buffers;
    Duplicate(buffers.a, 1.0f, 8);
    PipeBarrier<PIPE_V>();
    Muls(buffers.b, buffers.a, 2.0f, 9);  // fault
}

VECTOR_KERNEL(reads_what_padding_left)
{
    Buffers buffers;
    DataCopyPad(buffers.a, Tensor(x), DataCopyExtParams{1, 20, 0, 0, 0}, DataCopyPadExtParams<float>{false, 0, 0, 0});
    Await<HardEvent::MTE2_V>();
    Muls(buffers.b, buffers.a, 2.0f, 8);  // fault
}

VECTOR_KERNEL(reads_its_last_round)
{
    TPipe pipe;
    TQue<TPosition::VECIN, 1> in;
    TBuf<TPosition::VECCALC> buffer;
    pipe.InitBuffer(in, 1, BYTES);
    pipe.InitBuffer(buffer, BYTES);
    for (uint32_t length = 64; length >= 8; length /= 8) {
        LocalTensor<float> loading = in.AllocTensor<float>();
        DataCopy(loading, Tensor(x), length);
        in.EnQue(loading);
        LocalTensor<float> loaded = in.DeQue<float>();
        Muls(buffer.Get<float>(), loaded, 2.0f, 64);  // fault
        in.FreeTensor(loaded);
    }
}

// ---- pipes ----

VECTOR_KERNEL(copy_then_vector)
{
    Buffers buffers;
    DataCopy(buffers.a, Tensor(x), COUNT);
    Muls(buffers.b, buffers.a, 2.0f, COUNT);  // fault
}

VECTOR_KERNEL(vector_then_copy)
{
    Buffers buffers;
    Duplicate(buffers.a, 1.0f, COUNT);
    DataCopy(Tensor(y), buffers.a, COUNT);  // fault
}

VECTOR_KERNEL(vector_then_vector)
{
    Buffers buffers;
    Duplicate(buffers.a, 1.0f, COUNT);
    Muls(buffers.b, buffers.a, 2.0f, COUNT);  // fault
}

VECTOR_KERNEL(vector_then_scalar)
{
    Buffers buffers;
    Duplicate(buffers.a, 1.0f, COUNT);
    buffers.a.GetValue(0);  // fault
}

VECTOR_KERNEL(scalar_then_vector)
{
    Buffers buffers;
    Duplicate(buffers.a, 1.0f, COUNT);
    Await<HardEvent::V_S>();
    buffers.a.SetValue(0, 2.0f);
    Muls(buffers.b, buffers.a, 2.0f, COUNT);  // fault
}

VECTOR_KERNEL(read_then_overwritten)
{
    Buffers buffers;
    Duplicate(buffers.a, 1.0f, COUNT);
    Await<HardEvent::V_MTE3>();
    DataCopy(Tensor(y), buffers.a, COUNT);
    PipeBarrier<PIPE_V>();
    Duplicate(buffers.a, 2.0f, COUNT);  // fault
}

VECTOR_KERNEL(out_then_in)
{
    Buffers buffers;
    Duplicate(buffers.a, 1.0f, COUNT);
    Await<HardEvent::V_MTE3>();
    DataCopy(Tensor(y), buffers.a, COUNT);
    DataCopy(buffers.b, Tensor(y), COUNT);  // fault
}

VECTOR_KERNEL(out_twice)
{
    Buffers buffers;
    Duplicate(buffers.a, 1.0f, COUNT);
    Await<HardEvent::V_MTE3>();
    DataCopy(Tensor(y), buffers.a, COUNT);
    DataCopy(Tensor(y), buffers.a, COUNT);  // fault
}

VECTOR_KERNEL(flag_left_behind)
{
    SetFlag<HardEvent::V_MTE3>(EVENT_ID0);  // fault
}

VECTOR_KERNEL(flag_set_twice)
{
    SetFlag<HardEvent::V_MTE3>(EVENT_ID0);
    SetFlag<HardEvent::V_MTE3>(EVENT_ID0);  // fault
}

VECTOR_KERNEL(flag_never_set)
{
    WaitFlag<HardEvent::V_MTE3>(EVENT_ID0);  // fault
}

VECTOR_KERNEL(no_such_flag)
{
    SetFlag<HardEvent::V_MTE3>(8);  // fault
}

VECTOR_KERNEL(scalar_barrier)
{
    PipeBarrier<PIPE_S>();  // fault
}

// ---- cores ----

MIXED_KERNEL(vector_on_a_cube_core)
{
    if ASCEND_IS_AIC {
        Buffers buffers;
        Duplicate(buffers.a, 1.0f, COUNT);  // fault
    }
}

VECTOR_KERNEL(one_address_two_blocks)
{
    Buffers buffers;
    Duplicate(buffers.a, 1.0f, COUNT);
    Await<HardEvent::V_MTE3>();
    DataCopy(Tensor(y), buffers.a, 8);  // fault
}

MIXED_KERNEL(no_flag_between_cores)
{
    Buffers buffers;
    if ASCEND_IS_AIV {
        if (GetSubBlockIdx() == 0) {
            Duplicate(buffers.a, 1.0f, COUNT);
            Await<HardEvent::V_MTE3>();
            DataCopy(Tensor(y)[GetBlockIdx() * 8], buffers.a, 8);  // fault
        } else {
            DataCopy(buffers.a, Tensor(y)[(GetBlockIdx() - 1) * 8], 8);  // fault
        }
    }
}

// The flag of the wrong pipe: the copy may still be under way when the other core reads.
MIXED_KERNEL(flag_of_another_pipe)
{
    Buffers buffers;
    if ASCEND_IS_AIV {
        if (GetSubBlockIdx() == 0) {
            Duplicate(buffers.a, 1.0f, COUNT);
            Await<HardEvent::V_MTE3>();
            DataCopy(Tensor(y)[GetBlockIdx() * 8], buffers.a, 8);
        }
        CrossCoreSetFlag<1, PIPE_V>(3);
        CrossCoreWaitFlag(3);
        if (GetSubBlockIdx() == 1) {
            DataCopy(buffers.a, Tensor(y)[(GetBlockIdx() - 1) * 8], 8);  // fault
        }
    }
}

MIXED_KERNEL(everyone_waits)
{
    CrossCoreWaitFlag(4);  // fault
}

MIXED_KERNEL(cross_flag_left_behind)
{
    if ASCEND_IS_AIC {
        CrossCoreSetFlag<2, PIPE_FIX>(5);  // fault
    }
}

extern "C" __global__ __aicore__ void no_task_type(GM_ADDR x, GM_ADDR y)
{
    Tensor(x).GetValue(0);
}
