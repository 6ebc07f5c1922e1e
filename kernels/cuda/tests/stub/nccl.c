/* An NCCL over loopback TCP: rank 0 takes what each rank gives, computes, and gives each rank its result. Calls are done by the
   streams of the stub GPU (gpu.c), so that they are as late as NCCL's; one whose peer is gone does not end until it is aborted,
   as NCCL's. What goes beyond is said by NCCL's codes. */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SUCCESS, CUDA_ERROR, SYSTEM, INTERNAL, ARGUMENT, USAGE, REMOTE };
enum { ALL_REDUCE, BROADCAST, ALL_GATHER, REDUCE_SCATTER };
enum { MOST = 8 };

struct id {
    char bytes[128];
};

struct comm {
    int rank, size;
    /* Of rank 0 to each rank; of another rank the first alone. */
    int sockets[MOST];
    volatile int error, aborted, under_way;
};

struct header {
    int call, kind, op, spare;
    uint64_t count;
};

struct call {
    struct comm *comm;
    struct header header;
    const char *from;
    char *to;
};

static int listener = -1;
static char last_error[200];

static int fails(int code, const char *why) {
    snprintf(last_error, sizeof last_error, "%s", why);
    return code;
}

int ncclGetVersion(int *version) {
    const char *told = getenv("STUB_NCCL_VERSION");
    *version = told ? atoi(told) : 22907;
    return SUCCESS;
}

const char *ncclGetLastError(struct comm *comm) {
    (void)comm;
    return last_error;
}

int ncclGetUniqueId(struct id *id) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (void *)&address, length) || listen(listener, MOST) ||
        getsockname(listener, (void *)&address, &length))
        return fails(SYSTEM, strerror(errno));
    memset(id, 0, sizeof *id);
    memcpy(id->bytes, &address, sizeof address);
    /* What the last byte says is lost if the structure is not passed whole. */
    id->bytes[127] = 77;
    return SUCCESS;
}

/* Whether all bytes went through; a peer that is gone is noted, and waited for until somebody aborts. */
static int moves(struct comm *comm, int rank, void *data, size_t bytes, int sends) {
    for (size_t done = 0; done < bytes;) {
        char *at = (char *)data + done;
        int socket = comm->sockets[rank];
        ssize_t moved = sends ? send(socket, at, bytes - done, MSG_NOSIGNAL) : recv(socket, at, bytes - done, 0);
        if (moved > 0) {
            done += moved;
            continue;
        }
        if (!comm->aborted) {
            snprintf(last_error, sizeof last_error, "the connection to a peer was closed");
            comm->error = REMOTE;
        }
        while (!comm->aborted)
            usleep(1000);
        return 0;
    }
    return 1;
}

int ncclCommInitRank(struct comm **made, int size, struct id id, int rank) {
    if (size > MOST || rank < 0 || rank >= size || id.bytes[127] != 77)
        return fails(ARGUMENT, "no such rank, or no root");
    struct comm *comm = calloc(1, sizeof *comm);
    comm->rank = rank;
    comm->size = size;
    if (rank) {
        struct sockaddr_in address;
        memcpy(&address, id.bytes, sizeof address);
        comm->sockets[0] = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(comm->sockets[0], (void *)&address, sizeof address))
            return fails(SYSTEM, strerror(errno));
        if (!moves(comm, 0, &rank, sizeof rank, 1))
            return REMOTE;
    }
    for (int i = 1; !rank && i < size; i++) {
        int from, socket = accept(listener, 0, 0);
        if (socket < 0 || recv(socket, &from, sizeof from, MSG_WAITALL) != sizeof from)
            return fails(SYSTEM, "accepting a rank");
        comm->sockets[from] = socket;
    }
    *made = comm;
    return SUCCESS;
}

int ncclCommGetAsyncError(struct comm *comm, int *error) {
    *error = comm->error;
    return SUCCESS;
}

static void close_all(struct comm *comm) {
    for (int i = 0; i < MOST; i++)
        if (comm->sockets[i])
            shutdown(comm->sockets[i], SHUT_RDWR);
}

int ncclCommAbort(struct comm *comm) {
    comm->aborted = 1;
    close_all(comm);
    while (__sync_fetch_and_add(&comm->under_way, 0))
        usleep(1000);
    return SUCCESS;
}

int ncclCommDestroy(struct comm *comm) {
    close_all(comm);
    return SUCCESS;
}

static size_t width(int kind) {
    static const size_t widths[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    return kind >= 0 && kind < 10 ? widths[kind] : 0;
}

static int reduces(int kind) { return kind == 1 || kind == 4 || kind == 7 || kind == 8; }

#define FOLD(type)                                                                                                      \
    for (size_t i = 0; i < count; i++) {                                                                                \
        type *x = (type *)sum + i, y = ((const type *)more)[i];                                                         \
        *x = op == 0 ? *x + y : op == 1 ? *x * y : op == 2 ? (y > *x ? y : *x) : (y < *x ? y : *x);                     \
    }

static void fold(char *sum, const char *more, size_t count, int kind, int op) {
    if (kind == 1)
        FOLD(uint8_t)
    else if (kind == 4)
        FOLD(int64_t)
    else if (kind == 7)
        FOLD(float)
    else
        FOLD(double)
}

/* Rank 0's side: `given` has what each rank gives, one after the other. */
static int lead(struct call *call, size_t gives, size_t gets) {
    struct comm *comm = call->comm;
    struct header *own = &call->header;
    char *given = malloc(gives * comm->size);
    memcpy(given, call->from, gives);
    int moved = 1;
    for (int rank = 1; moved && rank < comm->size; rank++) {
        struct header other;
        moved = moves(comm, rank, &other, sizeof other, 0);
        if (moved && memcmp(&other, own, sizeof other)) {
            snprintf(last_error, sizeof last_error, "rank %d called something else", rank);
            comm->error = USAGE;
        }
        moved = moved && moves(comm, rank, given + rank * gives, gives, 0);
    }
    if (own->call == ALL_REDUCE || own->call == REDUCE_SCATTER)
        for (int rank = 1; moved && rank < comm->size; rank++)
            fold(given, given + rank * gives, gives / width(own->kind), own->kind, own->op);
    for (int rank = comm->size - 1; moved && rank >= 0; rank--) {
        size_t skip = own->call == BROADCAST ? own->op * gives : own->call == REDUCE_SCATTER ? rank * gets : 0;
        if (rank)
            moved = moves(comm, rank, given + skip, gets, 1);
        else
            memcpy(call->to, given + skip, gets);
    }
    free(given);
    return moved;
}

static void run(void *with) {
    struct call *call = with;
    struct comm *comm = call->comm;
    size_t bytes = call->header.count * width(call->header.kind);
    size_t gives = call->header.call == REDUCE_SCATTER ? bytes * comm->size : bytes;
    size_t gets = call->header.call == ALL_GATHER ? bytes * comm->size : bytes;
    if (comm->aborted)
        ;
    else if (!comm->rank)
        lead(call, gives, gets);
    else if (moves(comm, 0, &call->header, sizeof call->header, 1) && moves(comm, 0, (void *)call->from, gives, 1))
        moves(comm, 0, call->to, gets, 0);
    __sync_fetch_and_sub(&comm->under_way, 1);
    free(call);
}

static int issue(struct comm *comm, void *stream, struct header header, const void *from, void *to) {
    int folds = header.call == ALL_REDUCE || header.call == REDUCE_SCATTER;
    if (!width(header.kind) || (folds && !reduces(header.kind)))
        return fails(ARGUMENT, "this type is not the stub's");
    static void (*enqueue)(void *, void (*)(void *), void *);
    if (!enqueue)
        enqueue = (void (*)(void *, void (*)(void *), void *))dlsym(dlopen("libcuda.so.1", RTLD_NOW), "stub_enqueue");
    struct call *call = malloc(sizeof *call);
    *call = (struct call){comm, header, from, to};
    __sync_fetch_and_add(&comm->under_way, 1);
    enqueue(stream, run, call);
    return SUCCESS;
}

int ncclAllReduce(const void *from, void *to, size_t count, int kind, int op, struct comm *comm, void *stream) {
    return issue(comm, stream, (struct header){ALL_REDUCE, kind, op, 0, count}, from, to);
}

int ncclBroadcast(const void *from, void *to, size_t count, int kind, int root, struct comm *comm, void *stream) {
    return issue(comm, stream, (struct header){BROADCAST, kind, root, 0, count}, from, to);
}

int ncclAllGather(const void *from, void *to, size_t count, int kind, struct comm *comm, void *stream) {
    return issue(comm, stream, (struct header){ALL_GATHER, kind, 0, 0, count}, from, to);
}

int ncclReduceScatter(const void *from, void *to, size_t count, int kind, int op, struct comm *comm, void *stream) {
    return issue(comm, stream, (struct header){REDUCE_SCATTER, kind, op, 0, count}, from, to);
}
