// A core as the twin keeps it: memories with what is known of each byte, pipes with their clocks, flags.
#pragma once

#include <deque>
#include <exception>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "../machine.h"
#include "abi.h"

namespace AscendC::twin {

constexpr int PIPES = NPU_TWIN_PIPES;
constexpr int EVENTS = static_cast<int>(HardEvent::MAX);
constexpr int EVENT_IDS = 8;
constexpr int MEMORIES = 8;
constexpr uint32_t NOTHING = ~0u;

const char* NameOf(Memory memory);
const char* NameOf(pipe_t pipe);
const char* NameOf(HardEvent event);
struct Ends {
    pipe_t from, to;
};
Ends EndsOf(HardEvent event);

/// A rule that a kernel broke, on its way out of the kernel.
struct Fault {
    std::string text;
};
/// Ends a core because another one broke a rule.
struct Cancelled {};

/// What is known of 32 bytes of local memory: which of them were written, the last instruction that wrote any of them,
/// and the last that read any of them on each pipe.
struct Granule {
    uint32_t written = 0;
    uint32_t write_clock = 0;
    uint32_t read_clock[PIPES] = {};
    uint8_t write_pipe = 0;
};

struct LocalMemory {
    std::unique_ptr<uint8_t[]> bytes;
    std::vector<Granule> granules;
    uint32_t size = 0, taken = 0;
};

/// For each pipe of a core, the last of its instructions known to have ended.
struct Known {
    uint32_t of[PIPES] = {};
    void Join(const Known& other) {
        for (int p = 0; p < PIPES; ++p) of[p] = of[p] > other.of[p] ? of[p] : other.of[p];
    }
};

struct PipeState {
    Known known;
    uint32_t clock = 0;
    /// When it is free, and when the results of its last instruction are there.
    double time = 0, settled = 0, busy = 0;
    /// Index into the core's sites of each instruction that it ran.
    std::vector<uint32_t> sites{0};
};

struct Flag {
    bool set = false, managed = false;
    Known known;
    double time = 0;
    Where where{"", 0};
};

/// What a core knows of the others: Known for each core of the launch.
using Foreign = std::vector<Known>;

/// A cross-core flag on its way: what its sender knows, and when it was set.
struct Token {
    Foreign knows;
    double time = 0;
    Where where{"", 0};
};

enum class Touch : uint8_t { Read, Write, Atomic };

/// An access to device memory, kept for the search for races at the end of the launch.
struct Access {
    uint64_t order, address, bytes, rows, pitch;
    Known known;
    uint32_t clock, foreign, site, core;
    uint8_t pipe;
    Touch touch;
};

struct Site {
    Where where;
    const char* name;
};

struct Launch;

struct Core {
    Launch* launch = nullptr;
    Kind kind = Kind::Vector;
    uint32_t index = 0, block = 0, sub = 0, ratio = 1;
    LocalMemory memories[MEMORIES];
    PipeState pipes[PIPES];
    Flag flags[EVENTS][EVENT_IDS];
    /// Flags that queues and AllocEventID hold, a bit each.
    uint8_t held[EVENTS] = {};
    std::map<uint16_t, std::deque<Token>> tokens;
    std::vector<std::shared_ptr<const Foreign>> foreign;
    std::vector<Access> accesses;
    std::vector<Site> sites{{Where{"", 0}, ""}};
    std::map<std::pair<const void*, unsigned>, uint32_t> site_of;
    std::vector<NpuTwinSpan> spans;
    /// Lines of 64 bytes that the scalar unit's cache holds.
    std::set<uint64_t> cached;
    void* pipe = nullptr;
    /// The cross-core flag that the core waits for.
    uint32_t waits = NOTHING;
    Atomic atomic = Atomic::None;
    Type atomic_type = Type::F32;
    uint64_t mask[2] = {~0ull, ~0ull}, compare[2] = {0, 0};
    bool counter_mode = false;
    uint64_t result[4] = {0, 0, 0, 0};
    NpuTwinReport tally{};

    void Begin(const NpuTwinSoc& soc);
    /// Whether what instruction `clock` of `pipe` did is ordered before what `it` does.
    bool Ordered(const Instruction& it, uint8_t pipe, uint32_t clock) const;
    uint8_t* Check(Instruction& it, const Local& tensor, uint64_t offset, uint64_t bytes, bool write, bool spoil,
                   bool peek);
    uint8_t* Global(Instruction& it, const twin::Global& tensor, uint64_t offset, uint64_t bytes, uint64_t rows,
                    uint64_t pitch, bool write);
    const NpuTwinSpan* Find(uint64_t address);
    uint32_t SiteOf(const char* name, Where where);
    std::string Describe(pipe_t pipe, uint32_t clock) const;
    /// At the end of the core's own work: flags between its pipes that nobody waited for.
    void End();
    /// When every core is done, since others may set them after this one has ended: cross-core flags that nobody waited for.
    void EndOfLaunch() const;
    Foreign Knows(pipe_t pipe) const;
};

/// The core that this thread runs.
Core& Me();
extern thread_local Core* current;
extern thread_local KernelMetaType* declared;

/// Rules that several instructions share.
[[noreturn]] void FailHere(const Core& core, const char* instruction, Where where, const std::string& rule);
std::string Format(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace AscendC::twin
