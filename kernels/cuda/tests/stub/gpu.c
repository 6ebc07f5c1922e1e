/* A driver whose GPU is this process: streams are threads that do what they were given in order, memory is the host's. It has
   what collectives are ordered by, and a slow operation to order. NCCL's stub (nccl.c) gives its calls to these streams. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct task {
    void (*run)(void *);
    void *with;
    struct task *next;
};

struct stream {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct task *first, **last;
    int busy;
};

struct event {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    long recorded, reached;
};

static void *work(void *argument) {
    struct stream *stream = argument;
    for (;;) {
        pthread_mutex_lock(&stream->lock);
        while (!stream->first)
            pthread_cond_wait(&stream->changed, &stream->lock);
        struct task *task = stream->first;
        stream->first = task->next;
        if (!stream->first)
            stream->last = &stream->first;
        stream->busy = 1;
        pthread_mutex_unlock(&stream->lock);
        task->run(task->with);
        free(task);
        pthread_mutex_lock(&stream->lock);
        stream->busy = 0;
        pthread_cond_broadcast(&stream->changed);
        pthread_mutex_unlock(&stream->lock);
    }
    return 0;
}

int cuInit(unsigned flags) {
    (void)flags;
    return 0;
}

int cuCtxGetCurrent(void **context) {
    *context = (void *)1;
    return 0;
}

int cuCtxSetCurrent(void *context) { return context == (void *)1 ? 0 : 201; }

int cuStreamCreate(struct stream **made, unsigned flags) {
    (void)flags;
    struct stream *stream = calloc(1, sizeof *stream);
    pthread_mutex_init(&stream->lock, 0);
    pthread_cond_init(&stream->changed, 0);
    stream->last = &stream->first;
    pthread_t thread;
    if (pthread_create(&thread, 0, work, stream))
        return 2;
    pthread_detach(thread);
    *made = stream;
    return 0;
}

/* Streams and events live as long as the process: who still waits for one then needs no count of its users. */
int cuStreamDestroy_v2(struct stream *stream) { return stream ? 0 : 400; }
int cuEventDestroy_v2(struct event *event) { return event ? 0 : 400; }

int cuStreamSynchronize(struct stream *stream) {
    pthread_mutex_lock(&stream->lock);
    while (stream->first || stream->busy)
        pthread_cond_wait(&stream->changed, &stream->lock);
    pthread_mutex_unlock(&stream->lock);
    return 0;
}

void stub_enqueue(struct stream *stream, void (*run)(void *), void *with) {
    struct task *task = malloc(sizeof *task);
    *task = (struct task){run, with, 0};
    pthread_mutex_lock(&stream->lock);
    *stream->last = task;
    stream->last = &task->next;
    pthread_cond_broadcast(&stream->changed);
    pthread_mutex_unlock(&stream->lock);
}

int cuEventCreate(struct event **made, unsigned flags) {
    (void)flags;
    struct event *event = calloc(1, sizeof *event);
    pthread_mutex_init(&event->lock, 0);
    pthread_cond_init(&event->changed, 0);
    *made = event;
    return 0;
}

/* A record of an event, and what a stream reaches or waits for. */
struct mark {
    struct event *event;
    long record;
};

static struct mark *mark_of(struct event *event, int records) {
    struct mark *mark = malloc(sizeof *mark);
    pthread_mutex_lock(&event->lock);
    event->recorded += records;
    *mark = (struct mark){event, event->recorded};
    pthread_mutex_unlock(&event->lock);
    return mark;
}

static void reach(void *with) {
    struct mark *mark = with;
    pthread_mutex_lock(&mark->event->lock);
    mark->event->reached = mark->record;
    pthread_cond_broadcast(&mark->event->changed);
    pthread_mutex_unlock(&mark->event->lock);
    free(mark);
}

static void await(void *with) {
    struct mark *mark = with;
    pthread_mutex_lock(&mark->event->lock);
    while (mark->event->reached < mark->record)
        pthread_cond_wait(&mark->event->changed, &mark->event->lock);
    pthread_mutex_unlock(&mark->event->lock);
    free(mark);
}

int cuEventRecord(struct event *event, struct stream *stream) {
    stub_enqueue(stream, reach, mark_of(event, 1));
    return 0;
}

int cuStreamWaitEvent(struct stream *stream, struct event *event, unsigned flags) {
    (void)flags;
    stub_enqueue(stream, await, mark_of(event, 0));
    return 0;
}

int cuEventQuery(struct event *event) {
    pthread_mutex_lock(&event->lock);
    int over = event->reached == event->recorded;
    pthread_mutex_unlock(&event->lock);
    return over ? 0 : 600;
}

/* Adds a number to others, after a while: what a kernel would do. */
struct addition {
    float *to;
    size_t count;
    float number;
    unsigned microseconds;
};

static void add(void *with) {
    struct addition *addition = with;
    usleep(addition->microseconds);
    for (size_t i = 0; i < addition->count; i++)
        addition->to[i] += addition->number;
    free(addition);
}

void stub_add(struct stream *stream, float *to, size_t count, float number, unsigned microseconds) {
    struct addition *addition = malloc(sizeof *addition);
    *addition = (struct addition){to, count, number, microseconds};
    stub_enqueue(stream, add, addition);
}
