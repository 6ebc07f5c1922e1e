// One launch: its cores, the threads that run them, and what they share.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "core.h"

namespace AscendC::twin {

/// Sets of cross-core flags that wait for the rest of their group: by flag, a queue a sender.
using Pending = std::map<uint16_t, std::vector<std::deque<Token>>>;

/// The lines of device memory that any core has touched.
class Lines {
  public:
    /// Marks the lines of a run; how many of its bytes are in lines that were not marked.
    uint64_t Touch(const NpuTwinSpan& span, uint64_t start, uint64_t bytes);

  private:
    static constexpr uint64_t LINE = 512;
    std::mutex lock;
    std::map<uint64_t, std::vector<uint64_t>> marks;
};

struct Launch {
    NpuTwinHost host{};
    KernelMetaType type = KERNEL_TYPE_AIV_ONLY;
    uint32_t blocks = 1;
    /// Cube and vector cores of a block.
    uint32_t cubes = 0, vectors = 1;
    std::vector<std::unique_ptr<Core>> cores;
    std::function<void()> body;
    std::atomic<uint64_t> order{0};
    std::mutex atomics;
    Lines lines;

    std::mutex lock;
    std::condition_variable changed;
    std::vector<std::thread> threads;
    /// The first core that has not begun; cores that run and that do not wait for another.
    uint32_t next = 0, running = 0;
    bool failed = false;
    std::string fault;
    /// Across the launch: mode 0 on cube cores, on vector cores, and SyncAll of all; within each block: modes 1 and 2.
    Pending across[3];
    std::vector<Pending> among, between;

    /// Runs `body` on every core of every block.
    void Run();
    Core& At(uint32_t block, Kind kind, uint32_t sub);
    /// One set of flag `id` by `sender` of a group of `senders`: once all have set it, each of `receivers` gets it.
    void Set(Pending& pending, uint16_t id, uint32_t sender, uint32_t senders, Token token,
             const std::vector<Core*>& receivers);
    /// Blocks the core until it has a token of flag `id`. A launch in which every core waits is a fault.
    Token Take(Core& core, uint16_t id, Where where);

  private:
    bool Stuck() const;
    /// Starts another thread where a core has not begun and fewer run than may.
    void Spawn();
    void Stop(const std::string& text);
};

/// The first pair of accesses to the same bytes of device memory, one of them a write, that nothing orders; empty where
/// there is none. Counts the distinct bytes touched.
std::string FindRace(const Launch& launch, NpuTwinReport& report);

}  // namespace AscendC::twin
