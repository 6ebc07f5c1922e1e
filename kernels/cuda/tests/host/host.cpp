/* Runs the threads of a block as fibers, and holds the kernels. */
#include "cuda_on_host.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

Index host::thread, host::block, host::threads;

namespace {
enum State { READY, AT_WARP, AT_BLOCK, DONE };

/* Of 16 bytes; zeros from nowhere. */
struct Copy {
    void *to;
    const void *from;
};

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(64 << 10);
    State state;
    unsigned exchanges;
    /* Copies that nobody has waited for: the groups that are whole, and then the one that is begun. */
    std::vector<std::vector<Copy>> copies;
};

constexpr unsigned WARP = 32;
std::vector<Fiber> fibers;
std::vector<host::Left> lanes;
ucontext_t scheduler;
void (*body)(void *);
void *argument;

Fiber &self() { return fibers[host::thread.x]; }

void wait(State state) {
    self().state = state;
    swapcontext(&self().context, &scheduler);
}

void run() {
    body(argument);
    wait(DONE);
}

/* Lets fibers [from, to) go on once all of them wait at `state`; a mixture that can never go on is the caller's. */
bool release(size_t from, size_t to, State state) {
    for (size_t i = from; i < to; i++) {
        if (fibers[i].state != state) {
            return false;
        }
    }
    for (size_t i = from; i < to; i++) {
        fibers[i].state = READY;
    }
    return true;
}

/* Zero when every thread of the block came to its end. */
int run_block(unsigned threads) {
    for (unsigned i = 0; i < threads; i++) {
        Fiber &fiber = fibers[i];
        fiber.state = READY;
        fiber.exchanges = 0;
        fiber.copies.assign(1, {});
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = fiber.stack.size();
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, run, 0);
    }
    for (;;) {
        unsigned done = 0;
        for (unsigned i = 0; i < threads; i++) {
            if (fibers[i].state == READY) {
                host::thread = {i, 0, 0};
                swapcontext(&scheduler, &fibers[i].context);
            }
            done += fibers[i].state == DONE;
        }
        if (done == threads) {
            return 0;
        }
        bool moved = release(0, threads, AT_BLOCK);
        for (unsigned warp = 0; warp < threads; warp += WARP) {
            moved |= release(warp, warp + WARP < threads ? warp + WARP : threads, AT_WARP);
        }
        if (!moved) {
            fprintf(stderr, "block %u %u: some threads wait for others that went elsewhere\n", host::block.x, host::block.y);
            return 1;
        }
    }
}
} // namespace

void host::wait_for_block() { wait(AT_BLOCK); }
void host::wait_for_warp() { wait(AT_WARP); }

host::Left *host::exchange() {
    /* A lane that is one exchange ahead must not overwrite what others have yet to read; it cannot be two ahead. */
    const unsigned turn = self().exchanges++ % 2;
    return &lanes[(thread.x / WARP * 2 + turn) * WARP];
}

void host::check_aligned(const void *at) {
    if ((uintptr_t)at % 16) {
        fprintf(stderr, "block %u thread %u: %p is not aligned to 16 bytes\n", block.x, thread.x, at);
        abort();
    }
}

void host::start_copy(void *to, const void *from, bool there) {
    check_aligned(to);
    check_aligned(from);
    self().copies.back().push_back({to, there ? from : nullptr});
}

void host::end_group() { self().copies.emplace_back(); }

void host::wait_for_groups(unsigned left) {
    auto &groups = self().copies;
    for (; groups.size() > left + 1; groups.erase(groups.begin())) {
        for (const Copy &copy : groups.front()) {
            copy.from ? memcpy(copy.to, copy.from, 16) : memset(copy.to, 0, 16);
        }
    }
}

/* So many bytes, aligned to 16, behind which nothing can be read: the program ends there. For as long as it runs. */
extern "C" void *before_a_wall(size_t bytes) {
    constexpr size_t PAGE = 4096;
    const size_t room = (bytes + PAGE - 1) / PAGE * PAGE;
    char *start = (char *)mmap(nullptr, room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || mprotect(start + room, PAGE, PROT_NONE)) {
        perror("memory before a wall");
        abort();
    }
    return start + (room - bytes) / 16 * 16;
}

/* A launch of a grid of blocks of `threads_of_block` threads, each of which calls `each(with)`. */
extern "C" int launch(const unsigned grid[3], unsigned threads_of_block, void (*each)(void *), void *with) {
    if (fibers.size() < threads_of_block) {
        fibers.resize(threads_of_block);
        lanes.resize(2 * (threads_of_block + WARP));
    }
    body = each;
    argument = with;
    host::threads = {threads_of_block, 1, 1};
    for (unsigned z = 0; z < grid[2]; z++) {
        for (unsigned y = 0; y < grid[1]; y++) {
            for (unsigned x = 0; x < grid[0]; x++) {
                host::block = {x, y, z};
                if (run_block(threads_of_block)) {
                    return 1;
                }
            }
        }
    }
    return 0;
}

#include "../../cu/rows.cu"
#undef ENTRIES
#undef ENTRY
#include "../../cu/attention.cu"
#undef ENTRIES
#undef ENTRY
#include "../../cu/paged.cu"
#undef ENTRIES
#undef ENTRY
#include "../../cu/moe.cu"
#undef ENTRIES
#include "../../cu/grouped.cu"
