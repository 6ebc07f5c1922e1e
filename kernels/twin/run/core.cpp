// Bounds, alignment, initialisation and ordering of everything a core touches.
#include "core.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>

#include "cost.h"
#include "launch.h"

namespace AscendC::twin {

thread_local Core* current = nullptr;
thread_local KernelMetaType* declared = nullptr;

namespace {

constexpr const char* PIPE_NAMES[] = {"S", "V", "M", "MTE1", "MTE2", "MTE3", "FIX"};
constexpr const char* MEMORY_NAMES[] = {"no memory", "UB", "L1", "L0A", "L0B", "L0C", "the bias table", "the fixpipe buffer"};

struct EventRow {
    const char* name;
    Ends ends;
};
// In the order of HardEvent.
constexpr EventRow EVENT_ROWS[EVENTS] = {
    {"MTE2_MTE1", {PIPE_MTE2, PIPE_MTE1}}, {"MTE1_MTE2", {PIPE_MTE1, PIPE_MTE2}}, {"MTE1_M", {PIPE_MTE1, PIPE_M}},
    {"M_MTE1", {PIPE_M, PIPE_MTE1}},       {"MTE2_V", {PIPE_MTE2, PIPE_V}},       {"V_MTE2", {PIPE_V, PIPE_MTE2}},
    {"MTE3_V", {PIPE_MTE3, PIPE_V}},       {"V_MTE3", {PIPE_V, PIPE_MTE3}},       {"M_V", {PIPE_M, PIPE_V}},
    {"V_M", {PIPE_V, PIPE_M}},             {"V_V", {PIPE_V, PIPE_V}},             {"MTE3_MTE1", {PIPE_MTE3, PIPE_MTE1}},
    {"MTE1_MTE3", {PIPE_MTE1, PIPE_MTE3}}, {"MTE1_V", {PIPE_MTE1, PIPE_V}},       {"MTE2_M", {PIPE_MTE2, PIPE_M}},
    {"M_MTE2", {PIPE_M, PIPE_MTE2}},       {"V_MTE1", {PIPE_V, PIPE_MTE1}},       {"M_FIX", {PIPE_M, PIPE_FIX}},
    {"FIX_M", {PIPE_FIX, PIPE_M}},         {"MTE3_MTE2", {PIPE_MTE3, PIPE_MTE2}}, {"MTE2_MTE3", {PIPE_MTE2, PIPE_MTE3}},
    {"S_V", {PIPE_S, PIPE_V}},             {"V_S", {PIPE_V, PIPE_S}},             {"S_MTE2", {PIPE_S, PIPE_MTE2}},
    {"MTE2_S", {PIPE_MTE2, PIPE_S}},       {"S_MTE3", {PIPE_S, PIPE_MTE3}},       {"MTE3_S", {PIPE_MTE3, PIPE_S}},
    {"MTE2_FIX", {PIPE_MTE2, PIPE_FIX}},   {"FIX_MTE2", {PIPE_FIX, PIPE_MTE2}},   {"FIX_S", {PIPE_FIX, PIPE_S}},
    {"M_S", {PIPE_M, PIPE_S}},             {"FIX_MTE3", {PIPE_FIX, PIPE_MTE3}},   {"MTE1_FIX", {PIPE_MTE1, PIPE_FIX}},
    {"FIX_MTE1", {PIPE_FIX, PIPE_MTE1}},   {"FIX_FIX", {PIPE_FIX, PIPE_FIX}},
};

bool HasPipe(Kind kind, pipe_t pipe) {
    if (kind == Kind::Vector) return pipe == PIPE_S || pipe == PIPE_V || pipe == PIPE_MTE2 || pipe == PIPE_MTE3;
    return pipe != PIPE_V;
}

double Settles(pipe_t pipe) {
    switch (pipe) {
        case PIPE_V: return cost::VECTOR_SETTLES;
        case PIPE_M: case PIPE_MTE1: return cost::CUBE_SETTLES;
        case PIPE_MTE2: case PIPE_MTE3: case PIPE_FIX: return cost::COPY_SETTLES;
        default: return 0;
    }
}

}  // namespace

const char* NameOf(Memory memory) { return MEMORY_NAMES[static_cast<int>(memory)]; }
const char* NameOf(pipe_t pipe) { return PIPE_NAMES[pipe]; }
const char* NameOf(HardEvent event) { return EVENT_ROWS[static_cast<int>(event)].name; }
Ends EndsOf(HardEvent event) { return EVENT_ROWS[static_cast<int>(event)].ends; }

Core& Me() {
    // A kernel that is only asked for its kind of task has no core to run anything on.
    if (current == nullptr) throw Fault{"the kernel does something before its KERNEL_TASK_TYPE_DEFAULT"};
    return *current;
}

bool CoreIs(Kind kind) { return Me().kind == kind; }

void Declare(KernelMetaType type) {
    if (declared == nullptr) return;
    *declared = type;
    throw Cancelled{};
}

std::string Format(const char* format, ...) {
    char text[1024];
    va_list values;
    va_start(values, format);
    std::vsnprintf(text, sizeof text, format, values);
    va_end(values);
    return text;
}

void FailHere(const Core& core, const char* instruction, Where where, const std::string& rule) {
    const char* unit = core.kind == Kind::Cube ? "cube core" : "vector core";
    throw Fault{Format("%s:%u: %s: %s (block %u, %s %u)", where.file, where.line, instruction, rule.c_str(), core.block,
                       unit, core.sub)};
}

void Fail(const char* instruction, Where where, const char* rule, ...) {
    char text[1024];
    va_list values;
    va_start(values, rule);
    std::vsnprintf(text, sizeof text, rule, values);
    va_end(values);
    FailHere(Me(), instruction, where, text);
}

void Core::Begin(const NpuTwinSoc& soc) {
    const uint32_t sizes[MEMORIES] = {0, soc.ub, soc.l1, soc.l0a, soc.l0b, soc.l0c, soc.bt, soc.fb};
    for (int m = 1; m < MEMORIES; ++m) {
        const bool mine = (m == static_cast<int>(Memory::UB)) == (kind == Kind::Vector);
        memories[m].size = sizes[m];
        if (!mine) continue;
        memories[m].bytes.reset(new uint8_t[sizes[m]]);
        memories[m].granules.assign((sizes[m] + 31) / 32, Granule());
    }
}

uint32_t Core::SiteOf(const char* name, Where where) {
    auto [found, fresh] = site_of.try_emplace({static_cast<const void*>(where.file), where.line}, sites.size());
    if (fresh) sites.push_back({where, name});
    return found->second;
}

std::string Core::Describe(pipe_t pipe, uint32_t clock) const {
    const Site& site = sites[pipes[pipe].sites[clock]];
    return Format("%s at %s:%u on pipe %s", site.name, site.where.file, site.where.line, NameOf(pipe));
}

bool Core::Ordered(const Instruction& it, uint8_t pipe, uint32_t clock) const {
    const uint32_t known = pipes[it.pipe].known.of[pipe];
    return known >= clock || (pipe == it.pipe && (it.ordered || it.pipe == PIPE_S || clock == it.clock));
}

Instruction::Instruction(pipe_t pipe, const char* name, Where where) : name(name), where(where), pipe(pipe) {
    Core& core = Me();
    Require(HasPipe(core.kind, pipe), "this core has no pipe %s", PIPE_NAMES[pipe]);
    PipeState &mine = core.pipes[pipe], &scalar = core.pipes[PIPE_S];
    clock = ++mine.clock;
    mine.sites.push_back(core.SiteOf(name, where));
    ++core.tally.instructions[pipe];
    scalar.time += cost::ISSUE;
    scalar.busy += cost::ISSUE;
    if (pipe == PIPE_S) return;
    // The scalar unit hands instructions out one after the other, so that all it has waited for is before this one;
    // not what it stored itself, which may still be on its way.
    for (int p = 0; p < PIPES; ++p)
        if (p != PIPE_S && scalar.known.of[p] > mine.known.of[p]) mine.known.of[p] = scalar.known.of[p];
    mine.time = mine.time > scalar.time ? mine.time : scalar.time;
}

Instruction::~Instruction() {
    PipeState& mine = Me().pipes[pipe];
    if (mine.settled < mine.time + Settles(pipe)) mine.settled = mine.time + Settles(pipe);
}

void Instruction::Takes(double cycles) {
    PipeState& mine = Me().pipes[pipe];
    mine.time += cycles;
    mine.busy += cycles;
}

void Instruction::TakesTransfer(uint64_t bursts, double least) {
    const NpuTwinSoc& soc = *Me().launch->host.soc;
    const double memory = soc.sharing == 0 ? soc.l2_read : std::min(soc.l2_read, soc.hbm / soc.sharing);
    const double cycles = double(fresh) / memory + double(again) / soc.l2_read + double(stored) / soc.l2_write;
    Takes(std::max({cycles, least, double(bursts) * cost::BURST}));
}

void Instruction::RequireAligned(const Local& tensor, uint32_t alignment, const char* operand) {
    Require(tensor.start % alignment == 0, "%s begins at byte %u of %s, not at a multiple of %u", operand, tensor.start,
            NameOf(tensor.memory), alignment);
}

const uint8_t* Instruction::Read(const Local& tensor, uint64_t offset, uint64_t bytes) {
    return Me().Check(*this, tensor, offset, bytes, false, false, false);
}
uint8_t* Instruction::Write(const Local& tensor, uint64_t offset, uint64_t bytes) {
    return Me().Check(*this, tensor, offset, bytes, true, false, false);
}
const uint8_t* Instruction::Peek(const Local& tensor, uint64_t offset, uint64_t bytes) {
    return Me().Check(*this, tensor, offset, bytes, false, false, true);
}
uint8_t* Instruction::Spoil(const Local& tensor, uint64_t offset, uint64_t bytes) {
    return Me().Check(*this, tensor, offset, bytes, true, true, false);
}

bool Instruction::Known(const Local& tensor, uint64_t offset, uint64_t bytes) {
    const LocalMemory& memory = Me().memories[static_cast<int>(tensor.memory)];
    for (uint64_t byte = tensor.start + offset, end = byte + bytes; byte < end; ++byte) {
        const uint64_t granule = byte / 32;
        if (granule >= memory.granules.size() || (memory.granules[granule].written >> (byte % 32) & 1) == 0) return false;
    }
    return true;
}

uint8_t* Core::Check(Instruction& it, const Local& tensor, uint64_t offset, uint64_t bytes, bool write, bool spoil,
                     bool peek) {
    const char* verb = write ? "writes" : "reads";
    it.Require(tensor.memory != Memory::None, "%s a tensor without a buffer", verb);
    LocalMemory& memory = memories[static_cast<int>(tensor.memory)];
    it.Require(memory.bytes != nullptr, "%s %s, which this core has not", verb, NameOf(tensor.memory));
    const uint64_t from = tensor.start + offset, to = from + bytes;
    if (to > tensor.limit || from > to)
        FailHere(*this, it.name, it.where,
                 Format("%s beyond its tensor: bytes %lu to %lu of %s, where the tensor ends at %u", verb,
                        (unsigned long)from, (unsigned long)to, NameOf(tensor.memory), tensor.limit));
    if (it.pipe == PIPE_S) it.Takes(cost::SCALAR_LOCAL);
    if (bytes == 0) return memory.bytes.get() + from;
    for (uint64_t g = from / 32; g <= (to - 1) / 32; ++g) {
        Granule& granule = memory.granules[g];
        const uint64_t first = from > g * 32 ? from - g * 32 : 0, last = to < g * 32 + 32 ? to - g * 32 : 32;
        const uint32_t mask = static_cast<uint32_t>(((1ull << (last - first)) - 1) << first);
        if (!write && !peek && (granule.written & mask) != mask) {
            const uint64_t byte = g * 32 + __builtin_ctz(mask & ~granule.written);
            FailHere(*this, it.name, it.where,
                     Format("reads byte %lu of %s (%lu of its tensor), which was never written", (unsigned long)byte,
                            NameOf(tensor.memory), (unsigned long)(byte - tensor.start)));
        }
        if (granule.write_clock != 0 && !Ordered(it, granule.write_pipe, granule.write_clock)) {
            const auto other = static_cast<pipe_t>(granule.write_pipe);
            const std::string wrote = Describe(other, granule.write_clock);
            const char* missing = other == it.pipe ? "PipeBarrier" : "flag, queue or barrier";
            FailHere(*this, it.name, it.where,
                     Format("%s bytes %lu to %lu of %s on pipe %s, which %s wrote: no %s orders the two", verb,
                            (unsigned long)from, (unsigned long)to, NameOf(tensor.memory), NameOf(it.pipe),
                            wrote.c_str(), missing));
        }
        if (!write) {
            granule.read_clock[it.pipe] = it.clock;
            continue;
        }
        for (int p = 0; p < PIPES; ++p) {
            if (p == it.pipe || granule.read_clock[p] == 0 || Ordered(it, static_cast<uint8_t>(p), granule.read_clock[p]))
                continue;
            // The scalar unit has its value before it goes on.
            if (p == PIPE_S) continue;
            const std::string read = Describe(static_cast<pipe_t>(p), granule.read_clock[p]);
            FailHere(*this, it.name, it.where,
                     Format("writes bytes %lu to %lu of %s on pipe %s while %s may still read them: no flag, queue or "
                            "barrier orders the two",
                            (unsigned long)from, (unsigned long)to, NameOf(tensor.memory), NameOf(it.pipe),
                            read.c_str()));
        }
        granule.written = spoil ? granule.written & ~mask : granule.written | mask;
        granule.write_clock = it.clock;
        granule.write_pipe = static_cast<uint8_t>(it.pipe);
    }
    return memory.bytes.get() + from;
}

const NpuTwinSpan* Core::Find(uint64_t address) {
    for (size_t i = 0; i < spans.size(); ++i) {
        if (address < spans[i].base || address >= spans[i].end) continue;
        if (i > 0) std::swap(spans[i], spans[i - 1]);
        return &spans[i > 0 ? i - 1 : 0];
    }
    NpuTwinSpan span{};
    if (launch->host.translate(launch->host.context, address, &span) == 0) return nullptr;
    spans.push_back(span);
    return &spans.back();
}

uint8_t* Core::Global(Instruction& it, const twin::Global& tensor, uint64_t offset, uint64_t bytes, uint64_t rows,
                      uint64_t pitch, bool write) {
    const char* verb = write ? "writes" : "reads";
    const uint64_t from = tensor.address + offset, to = from + (rows == 0 ? 0 : (rows - 1) * pitch + bytes);
    it.Require(tensor.address != 0, "%s device memory at address 0: SetGlobalBuffer was not called", verb);
    if (bytes == 0 || rows == 0) return nullptr;
    if (tensor.limit != 0 && to > tensor.limit)
        FailHere(*this, it.name, it.where,
                 Format("%s beyond its tensor in device memory: up to %#lx, where the tensor ends at %#lx, %lu bytes too "
                        "far",
                        verb, (unsigned long)to, (unsigned long)tensor.limit, (unsigned long)(to - tensor.limit)));
    const NpuTwinSpan* span = Find(from);
    if (span == nullptr || to > span->end)
        FailHere(*this, it.name, it.where,
                 Format("%s %#lx to %#lx, which %s", verb, (unsigned long)from, (unsigned long)to,
                        span == nullptr ? "lies in no allocation" : "passes the end of its allocation"));
    it.Require(!write || span->writable != 0, "writes %#lx, which is read-only", (unsigned long)from);
    // Rows without gaps are one run.
    if (rows > 1 && pitch == bytes) bytes *= rows, rows = 1;
    for (uint64_t row = 0; row < rows; ++row) {
        const uint64_t fresh = launch->lines.Touch(*span, from + row * pitch, bytes);
        if (write) it.stored += bytes;
        else it.fresh += fresh, it.again += bytes - fresh;
    }
    if (it.pipe == PIPE_S) it.Takes(cached.insert(from / 64).second ? cost::SCALAR_GLOBAL : cost::SCALAR_LOCAL);
    const Touch touch = !write ? Touch::Read : atomic != Atomic::None && it.pipe != PIPE_S ? Touch::Atomic : Touch::Write;
    const PipeState& mine = pipes[it.pipe];
    accesses.push_back({launch->order.fetch_add(1), from, bytes, rows, pitch, mine.known, it.clock,
                        static_cast<uint32_t>(foreign.size() - 1), mine.sites.back(), index,
                        static_cast<uint8_t>(it.pipe), touch});
    return span->host + (from - span->base);
}

const uint8_t* Instruction::Read(const twin::Global& tensor, uint64_t offset, uint64_t bytes, uint64_t rows,
                                 uint64_t pitch) {
    return Me().Global(*this, tensor, offset, bytes, rows, pitch, false);
}
uint8_t* Instruction::Write(const twin::Global& tensor, uint64_t offset, uint64_t bytes, uint64_t rows,
                            uint64_t pitch) {
    return Me().Global(*this, tensor, offset, bytes, rows, pitch, true);
}

Foreign Core::Knows(pipe_t pipe) const {
    Foreign all = *foreign.back();
    all[index].Join(pipes[pipe].known);
    all[index].of[pipe] = pipes[pipe].clock;
    return all;
}

void Core::End() {
    for (int e = 0; e < EVENTS; ++e) {
        for (int id = 0; id < EVENT_IDS; ++id) {
            const Flag& flag = flags[e][id];
            if (flag.set && !flag.managed)
                FailHere(*this, "SetFlag", flag.where,
                         Format("flag %s %d is set and never waited for: the next kernel finds it set",
                                NameOf(static_cast<HardEvent>(e)), id));
        }
    }
}

void Core::EndOfLaunch() const {
    for (const auto& [id, waiting] : tokens) {
        if (!waiting.empty())
            FailHere(*this, "CrossCoreSetFlag", waiting.front().where,
                     Format("cross-core flag %u is set %zu times and never waited for", id, waiting.size()));
    }
}

uint32_t TakeBuffers(Memory memory, uint32_t count, uint32_t bytes, Where where) {
    Core& core = Me();
    LocalMemory& taken = core.memories[static_cast<int>(memory)];
    if (memory == Memory::None) Fail("InitBuffer", where, "a queue or buffer of this position has no memory of its own");
    if (bytes == 0) Fail("InitBuffer", where, "a buffer of 0 bytes");
    const uint64_t end = taken.taken + uint64_t(count) * bytes;
    if (end > taken.size)
        Fail("InitBuffer", where, "%lu bytes of %s are asked for in all, of %u", (unsigned long)end, NameOf(memory),
             taken.size);
    const uint32_t start = taken.taken;
    taken.taken = static_cast<uint32_t>(end);
    return start;
}

void ResetBuffers() {
    for (LocalMemory& memory : Me().memories) {
        memory.taken = 0;
        for (Granule& granule : memory.granules) granule.written = 0;
    }
}

void Vacate(Memory memory, uint32_t start, uint32_t bytes) {
    auto& granules = Me().memories[static_cast<int>(memory)].granules;
    if (granules.empty()) return;
    for (uint32_t g = start / 32; g < (start + bytes) / 32; ++g) granules[g].written = 0;
}

void*& CurrentPipe() { return Me().pipe; }

}  // namespace AscendC::twin
