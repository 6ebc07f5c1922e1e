/* A C program that knows nothing of the simulator: it uses ACL and aclnn as on a card, checks numbers and error codes,
 * and prints a line for each part. Compiles as C11, and as C++17, which CANN's own aclnn headers need. */
#ifdef CANN_HEADERS
#include "acl/acl.h"
#include "aclnn/acl_meta.h"
#include "aclnnop/aclnn_add.h"
#include "aclnnop/aclnn_matmul.h"
#include "aclnnop/aclnn_rms_norm.h"
#include "hccl/hccl.h"
#else
#include "declarations.h"
#endif
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fail(const char *what, long got, long wanted, int line)
{
    const char *text = aclGetRecentErrMsg();
    fprintf(stderr, "client.c:%d: %s: got %ld, wanted %ld: %s\n", line, what, got, wanted, text ? text : "no message");
    exit(1);
}

/* The expression has exactly this value. */
#define IS(expression, wanted) do { \
    long got_ = (long)(expression); \
    if (got_ != (long)(wanted)) fail(#expression, got_, (long)(wanted), __LINE__); \
} while (0)
#define OK(expression) IS(expression, 0)

static void near_to(const char *what, double got, double wanted, double tolerance)
{
    if (!(fabs(got - wanted) <= tolerance)) {
        fprintf(stderr, "%s: got %.9g, wanted %.9g within %.3g\n", what, got, wanted, tolerance);
        exit(1);
    }
}

/* Device memory that holds `count` floats. */
static float *upload(const float *values, size_t count)
{
    void *device = NULL;
    OK(aclrtMalloc(&device, count * sizeof(float), ACL_MEM_MALLOC_HUGE_FIRST));
    if (values)
        OK(aclrtMemcpy(device, count * sizeof(float), values, count * sizeof(float), ACL_MEMCPY_HOST_TO_DEVICE));
    return (float *)device;
}

static void download(float *values, const float *device, size_t count)
{
    OK(aclrtMemcpy(values, count * sizeof(float), device, count * sizeof(float), ACL_MEMCPY_DEVICE_TO_HOST));
}

/* A row-major matrix; `rows` 0 makes a vector. */
static aclTensor *tensor(float *data, int64_t rows, int64_t columns)
{
    int64_t dims[2] = {rows, columns}, strides[2] = {columns, 1};
    int skip = rows == 0;
    aclTensor *made = aclCreateTensor(dims + skip, (uint64_t)(2 - skip), ACL_FLOAT, strides + skip, 0, ACL_FORMAT_ND,
                                      dims + skip, (uint64_t)(2 - skip), data);
    if (!made)
        fail("aclCreateTensor", 0, 1, __LINE__);
    return made;
}

/* Workspace for a launch; null where none is needed. */
static void *workspace(uint64_t size)
{
    void *space = NULL;
    if (size)
        OK(aclrtMalloc(&space, size, ACL_MEM_MALLOC_HUGE_FIRST));
    return space;
}

static void add(aclrtStream stream)
{
    float a[6] = {1, 2, 3, 4, 5, 6}, b[3] = {10, 20, 30}, out[6], alpha = 2;
    float *da = upload(a, 6), *db = upload(b, 3), *dout = upload(NULL, 6);
    aclTensor *ta = tensor(da, 2, 3), *tb = tensor(db, 0, 3), *tout = tensor(dout, 2, 3);
    aclScalar *scale = aclCreateScalar(&alpha, ACL_FLOAT);
    uint64_t size = 0;
    aclOpExecutor *executor = NULL;
    OK(aclnnAddGetWorkspaceSize(ta, tb, scale, tout, &size, &executor));
    void *space = workspace(size);
    OK(aclnnAdd(space, size, executor, stream));
    OK(aclrtSynchronizeStream(stream));
    download(out, dout, 6);
    for (int i = 0; i < 6; i++)
        near_to("Add", out[i], a[i] + 2 * b[i % 3], 0);

    /* What the reference pages and the real first phase say of wrong arguments. */
    aclTensor *wrong = tensor(dout, 3, 2);
    IS(aclnnAddGetWorkspaceSize(NULL, tb, scale, tout, &size, &executor), 161001);
    IS(aclnnAddGetWorkspaceSize(ta, tb, scale, tout, NULL, &executor), 161001);
    IS(aclnnAddGetWorkspaceSize(ta, tb, scale, wrong, &size, &executor), 161002);
    OK(aclDestroyTensor(wrong));
    OK(aclDestroyTensor(ta));
    OK(aclDestroyTensor(tb));
    OK(aclDestroyTensor(tout));
    OK(aclDestroyScalar(scale));
    if (space)
        OK(aclrtFree(space));
    OK(aclrtFree(da));
    OK(aclrtFree(db));
    OK(aclrtFree(dout));
    puts("add ok");
}

static void matmul(aclrtStream stream)
{
    enum { M = 5, K = 7, N = 3 };
    float a[M * K], b[K * N], out[M * N];
    for (int i = 0; i < M * K; i++)
        a[i] = (float)(i % 11) - 5;
    for (int i = 0; i < K * N; i++)
        b[i] = (float)(i % 7) - 3;
    float *da = upload(a, M * K), *db = upload(b, K * N), *dout = upload(NULL, M * N);
    aclTensor *ta = tensor(da, M, K), *tb = tensor(db, K, N), *tout = tensor(dout, M, N);
    uint64_t size = 0;
    aclOpExecutor *executor = NULL;
    OK(aclnnMatmulGetWorkspaceSize(ta, tb, tout, 0, &size, &executor));
    if (size)
        IS(aclnnMatmul(NULL, size, executor, stream), 161001);
    void *space = workspace(size);
    OK(aclnnMatmul(space, size, executor, stream));
    OK(aclrtSynchronizeStream(stream));
    download(out, dout, M * N);
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int k = 0; k < K; k++)
                sum += (double)a[i * K + k] * b[k * N + j];
            /* Small whole numbers: every partial sum is exact. */
            near_to("Matmul", out[i * N + j], sum, 0);
        }
    IS(aclnnMatmulGetWorkspaceSize(ta, ta, tout, 0, &size, &executor), 161002);
    OK(aclDestroyTensor(ta));
    OK(aclDestroyTensor(tb));
    OK(aclDestroyTensor(tout));
    if (space)
        OK(aclrtFree(space));
    OK(aclrtFree(da));
    OK(aclrtFree(db));
    OK(aclrtFree(dout));
    puts("matmul ok");
}

static void rms_norm(aclrtStream stream)
{
    enum { ROWS = 2, COLUMNS = 8 };
    const double epsilon = 1e-6;
    float x[ROWS * COLUMNS], gamma[COLUMNS], y[ROWS * COLUMNS], rstd[ROWS];
    for (int i = 0; i < ROWS * COLUMNS; i++)
        x[i] = (float)i * 0.25f - 1;
    for (int i = 0; i < COLUMNS; i++)
        gamma[i] = 1 + (float)i * 0.5f;
    float *dx = upload(x, ROWS * COLUMNS), *dgamma = upload(gamma, COLUMNS);
    float *dy = upload(NULL, ROWS * COLUMNS), *drstd = upload(NULL, ROWS);
    aclTensor *tx = tensor(dx, ROWS, COLUMNS), *tgamma = tensor(dgamma, 0, COLUMNS);
    aclTensor *ty = tensor(dy, ROWS, COLUMNS), *trstd = tensor(drstd, ROWS, 1);
    uint64_t size = 0;
    aclOpExecutor *executor = NULL;
    OK(aclnnRmsNormGetWorkspaceSize(tx, tgamma, epsilon, ty, trstd, &size, &executor));
    void *space = workspace(size);
    OK(aclnnRmsNorm(space, size, executor, stream));
    OK(aclrtSynchronizeStream(stream));
    download(y, dy, ROWS * COLUMNS);
    download(rstd, drstd, ROWS);
    for (int row = 0; row < ROWS; row++) {
        double squares = 0;
        for (int i = 0; i < COLUMNS; i++)
            squares += (double)x[row * COLUMNS + i] * x[row * COLUMNS + i];
        double inverse = 1 / sqrt(squares / COLUMNS + epsilon);
        /* A few roundings of single precision, relative 6e-8 each, on values below 8. */
        near_to("RmsNorm rstd", rstd[row], inverse, 1e-6);
        for (int i = 0; i < COLUMNS; i++)
            near_to("RmsNorm", y[row * COLUMNS + i], x[row * COLUMNS + i] * inverse * gamma[i], 4e-6);
    }
    OK(aclDestroyTensor(tx));
    OK(aclDestroyTensor(tgamma));
    OK(aclDestroyTensor(ty));
    OK(aclDestroyTensor(trstd));
    if (space)
        OK(aclrtFree(space));
    OK(aclrtFree(dx));
    OK(aclrtFree(dgamma));
    OK(aclrtFree(dy));
    OK(aclrtFree(drstd));
    puts("rms_norm ok");
}

/* One stream brings data, a second one doubles it, an event orders them, the first takes it back. */
static void events(void)
{
    enum { COUNT = 1024 };
    const size_t bytes = COUNT * sizeof(float);
    void *there = NULL, *back = NULL;
    aclrtStream first = NULL, second = NULL;
    aclrtEvent arrived = NULL, doubled = NULL;
    OK(aclrtMallocHost(&there, bytes));
    OK(aclrtMallocHost(&back, bytes));
    for (int i = 0; i < COUNT; i++)
        ((float *)there)[i] = (float)i;
    OK(aclrtCreateStream(&first));
    OK(aclrtCreateStream(&second));
    OK(aclrtCreateEvent(&arrived));
    OK(aclrtCreateEvent(&doubled));
    float *device = upload(NULL, COUNT), *sum = upload(NULL, COUNT), one = 1;
    aclTensor *in = tensor(device, 0, COUNT), *out = tensor(sum, 0, COUNT);
    aclScalar *alpha = aclCreateScalar(&one, ACL_FLOAT);
    uint64_t size = 0;
    aclOpExecutor *executor = NULL;
    OK(aclrtMemcpyAsync(device, bytes, there, bytes, ACL_MEMCPY_HOST_TO_DEVICE, first));
    OK(aclrtRecordEvent(arrived, first));
    OK(aclrtStreamWaitEvent(second, arrived));
    OK(aclnnAddGetWorkspaceSize(in, in, alpha, out, &size, &executor));
    void *space = workspace(size);
    OK(aclnnAdd(space, size, executor, second));
    OK(aclrtRecordEvent(doubled, second));
    OK(aclrtStreamWaitEvent(first, doubled));
    OK(aclrtMemcpyAsync(back, bytes, sum, bytes, ACL_MEMCPY_DEVICE_TO_HOST, first));
    OK(aclrtSynchronizeStream(first));
    for (int i = 0; i < COUNT; i++)
        near_to("events", ((float *)back)[i], 2.0 * i, 0);
    OK(aclDestroyTensor(in));
    OK(aclDestroyTensor(out));
    OK(aclDestroyScalar(alpha));
    OK(aclrtDestroyEvent(arrived));
    OK(aclrtDestroyEvent(doubled));
    OK(aclrtDestroyStream(first));
    OK(aclrtDestroyStream(second));
    if (space)
        OK(aclrtFree(space));
    OK(aclrtFree(device));
    OK(aclrtFree(sum));
    OK(aclrtFreeHost(there));
    OK(aclrtFreeHost(back));
    puts("events ok");
}

static void errors(void)
{
    char host[64] = {0};
    void *block = NULL;
    IS(aclInit(NULL), 100002);
    IS(aclrtSetDevice(4096), 107001);
    IS(aclrtMalloc(&block, 0, ACL_MEM_MALLOC_HUGE_FIRST), 100000);
    IS(aclrtFree(NULL), 100000);
    OK(aclrtMalloc(&block, sizeof host, ACL_MEM_MALLOC_HUGE_FIRST));
    IS(aclrtMemcpy(block, 8, host, sizeof host, ACL_MEMCPY_HOST_TO_DEVICE), 107000);
    IS(aclrtMemcpy(block, sizeof host + 1, host, sizeof host + 1, ACL_MEMCPY_HOST_TO_DEVICE), 107000);
    const char *text = aclGetRecentErrMsg();
    if (!text || !strstr(text, "run 1 bytes over"))
        fail("the message of an overrun", 0, 1, __LINE__);
    if (aclGetRecentErrMsg())
        fail("a message is handed out once", 1, 0, __LINE__);
    IS(aclrtMemcpy(block, sizeof host, host, sizeof host, ACL_MEMCPY_DEVICE_TO_HOST), 107000);
    OK(aclrtFree(block));
    IS(aclrtFree(block), 107000);
    IS(HcclCommInitAll(2, NULL, NULL), 2);
    puts("errors ok");
}

/* Two devices sum over HCCL, both driven by this thread: a collective waits for no one before its stream is synchronised. */
static void collectives(void)
{
    enum { RANKS = 2, COUNT = 1000 };
    int32_t devices[RANKS] = {0, 1};
    HcclComm comms[RANKS];
    aclrtStream streams[RANKS];
    float *data[RANKS], values[COUNT];
    OK(HcclCommInitAll(RANKS, devices, comms));
    for (int rank = 0; rank < RANKS; rank++) {
        uint32_t got = 9, size = 0;
        OK(aclrtSetDevice(rank));
        OK(aclrtCreateStream(&streams[rank]));
        for (int i = 0; i < COUNT; i++)
            values[i] = (float)(i * (rank + 1));
        data[rank] = upload(values, COUNT);
        OK(HcclGetRankId(comms[rank], &got));
        IS(got, rank);
        OK(HcclGetRankSize(comms[rank], &size));
        IS(size, RANKS);
        OK(HcclAllReduce(data[rank], data[rank], COUNT, HCCL_DATA_TYPE_FP32, HCCL_REDUCE_SUM, comms[rank], streams[rank]));
    }
    IS(HcclAllReduce(data[0], data[0], COUNT, HCCL_DATA_TYPE_FP32, HCCL_REDUCE_SUM, NULL, streams[0]), 2);
    IS(HcclAllReduce(data[0], data[0], COUNT, HCCL_DATA_TYPE_UINT8, HCCL_REDUCE_SUM, comms[0], streams[0]), 5);
    for (int rank = 0; rank < RANKS; rank++) {
        HcclResult state = 99;
        OK(aclrtSetDevice(rank));
        OK(aclrtSynchronizeStream(streams[rank]));
        download(values, data[rank], COUNT);
        for (int i = 0; i < COUNT; i++)
            near_to("HcclAllReduce", values[i], 3.0 * i, 0);
        OK(HcclGetCommAsyncError(comms[rank], &state));
        IS(state, 0);
        OK(HcclCommDestroy(comms[rank]));
        OK(aclrtFree(data[rank]));
        OK(aclrtDestroyStream(streams[rank]));
    }
    IS(HcclCommDestroy(comms[0]), 1);
    OK(aclrtResetDevice(1));
    OK(aclrtResetDevice(1));
    OK(aclrtSetDevice(0));
    puts("collectives ok");
}

int main(void)
{
    aclrtStream stream = NULL;
    OK(aclInit(NULL));
    {
        void *block = NULL;
        IS(aclrtMalloc(&block, 16, ACL_MEM_MALLOC_HUGE_FIRST), 107002);
    }
    OK(aclrtSetDevice(0));
    printf("soc %s\n", aclrtGetSocName());
    OK(aclrtCreateStream(&stream));
    add(stream);
    matmul(stream);
    rms_norm(stream);
    events();
    errors();
    collectives();
    OK(aclrtDestroyStream(stream));
    for (int sets = 0; sets < 4; sets++)
        OK(aclrtResetDevice(0));
    OK(aclFinalize());
    puts("all ok");
    return 0;
}
