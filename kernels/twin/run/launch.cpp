// Threads of a launch, flags within a core and between cores, and the entry that the host calls.
#include "launch.h"

#include <algorithm>
#include <cstdio>

#include "cost.h"

namespace AscendC::twin {

namespace {

/// SyncAll's own flags: those that the vendor's interface keeps for itself.
constexpr uint16_t SYNC_ALL = 14, CROSS_FLAGS = 11;
constexpr size_t MOST_SETS = 15;

double Latest(const Core& core) {
    double time = 0;
    for (const PipeState& pipe : core.pipes) time = std::max({time, pipe.time, pipe.settled});
    return time;
}

}  // namespace

uint64_t Lines::Touch(const NpuTwinSpan& span, uint64_t start, uint64_t bytes) {
    std::unique_lock<std::mutex> guard(lock);
    auto& bits = marks[span.base];
    if (bits.empty()) bits.resize((span.end - span.base) / LINE / 64 + 1);
    uint64_t fresh = 0;
    for (uint64_t at = start; at < start + bytes;) {
        const uint64_t line = (at - span.base) / LINE;
        const uint64_t end = std::min(start + bytes, span.base + (line + 1) * LINE);
        uint64_t& word = bits[line / 64];
        if ((word >> (line % 64) & 1) == 0) fresh += end - at, word |= 1ull << (line % 64);
        at = end;
    }
    return fresh;
}

// ---- threads ----

void Launch::Run() {
    {
        std::unique_lock<std::mutex> guard(lock);
        Spawn();
    }
    // Threads are added while others run, so that the list is read under the lock each time.
    for (size_t i = 0;; ++i) {
        std::thread thread;
        {
            std::unique_lock<std::mutex> guard(lock);
            if (i == threads.size()) break;
            thread = std::move(threads[i]);
        }
        thread.join();
    }
}

void Launch::Spawn() {
    // A core that begins counts as running from here on: its thread may take a while to get there.
    while (!failed && next < cores.size() && running < host.threads) {
        ++running;
        ++next;
        threads.emplace_back([this, first = next - 1] {
            uint32_t index = first;
            while (true) {
                Core& core = *cores[index];
                std::string broken;
                core.Begin(*host.soc);
                current = &core;
                try {
                    body();
                    core.End();
                } catch (const Fault& fault) {
                    broken = fault.text;
                } catch (const Cancelled&) {
                }
                current = nullptr;
                for (LocalMemory& memory : core.memories) memory = LocalMemory();
                std::unique_lock<std::mutex> guard(lock);
                if (!broken.empty()) Stop(broken);
                // This thread goes on with the next core, if there is one and not too many run already.
                if (failed || next == cores.size() || running > host.threads) {
                    --running;
                    Spawn();
                    changed.notify_all();
                    return;
                }
                index = next++;
            }
        });
    }
}

void Launch::Stop(const std::string& text) {
    if (!failed) fault = text;
    failed = true;
    changed.notify_all();
}

Core& Launch::At(uint32_t block, Kind kind, uint32_t sub) {
    return *cores[block * (cubes + vectors) + (kind == Kind::Cube ? 0 : cubes + sub)];
}

void Launch::Set(Pending& pending, uint16_t id, uint32_t sender, uint32_t senders, Token token,
                 const std::vector<Core*>& receivers) {
    auto& queues = pending[id];
    queues.resize(senders);
    queues[sender].push_back(std::move(token));
    for (const auto& queue : queues)
        if (queue.empty()) return;
    Token all = std::move(queues[0].front());
    queues[0].pop_front();
    for (uint32_t s = 1; s < senders; ++s) {
        const Token& part = queues[s].front();
        for (size_t c = 0; c < all.knows.size(); ++c) all.knows[c].Join(part.knows[c]);
        all.time = std::max(all.time, part.time);
        queues[s].pop_front();
    }
    for (Core* receiver : receivers) receiver->tokens[id].push_back(all);
    changed.notify_all();
}

bool Launch::Stuck() const {
    if (running > 0 || next < cores.size()) return false;
    // A core whose flag has come may not have woken up yet.
    for (const auto& core : cores) {
        if (core->waits == NOTHING) continue;
        const auto tokens = core->tokens.find(core->waits);
        if (tokens != core->tokens.end() && !tokens->second.empty()) return false;
    }
    return true;
}

Token Launch::Take(Core& core, uint16_t id, Where where) {
    std::unique_lock<std::mutex> guard(lock);
    auto& waiting = core.tokens[id];
    if (waiting.empty() && !failed) {
        --running;
        core.waits = id;
        Spawn();
        while (waiting.empty() && !failed) {
            if (Stuck()) {
                Stop(Format("%s:%u: CrossCoreWaitFlag: every core that is left waits for a flag that none will set: "
                            "this one for flag %u (block %u, %s core %u)",
                            where.file, where.line, id, core.block, core.kind == Kind::Cube ? "cube" : "vector", core.sub));
                break;
            }
            changed.wait(guard);
        }
        core.waits = NOTHING;
        ++running;
    }
    if (failed) throw Cancelled{};
    Token token = std::move(waiting.front());
    waiting.pop_front();
    return token;
}

// ---- flags within a core ----

namespace {

bool Ignored(const Core& core, HardEvent event) {
    const Ends ends = EndsOf(event);
    // As the vendor's interface does: flags of the vector pipe mean nothing on a cube core.
    return core.kind == Kind::Cube && (ends.from == PIPE_V || ends.to == PIPE_V);
}

Flag& FlagOf(Core& core, HardEvent event, int id, const char* call, Where where) {
    if (id < 0 || id >= EVENT_IDS)
        Fail(call, where, "event identifier %d: there are 0 to %d for each pair of pipes", id, EVENT_IDS - 1);
    return core.flags[static_cast<int>(event)][id];
}

}  // namespace

void SetEvent(HardEvent event, int id, Where where) {
    Core& core = Me();
    if (Ignored(core, event)) return;
    if (event == HardEvent::V_V) return Barrier(PIPE_V, where);
    const Ends ends = EndsOf(event);
    Flag& flag = FlagOf(core, event, id, "SetFlag", where);
    if (flag.set)
        Fail("SetFlag", where, "flag %s %d is set already (%s:%u) and nobody has waited for it", NameOf(event), id,
             flag.where.file, flag.where.line);
    const PipeState& from = core.pipes[ends.from];
    flag.set = true;
    flag.managed = (core.held[static_cast<int>(event)] >> id & 1) != 0;
    flag.known = from.known;
    flag.known.Join(core.pipes[PIPE_S].known);
    flag.known.of[PIPE_S] = from.known.of[PIPE_S];
    flag.known.of[ends.from] = from.clock;
    flag.time = std::max(from.settled, core.pipes[PIPE_S].time += cost::ISSUE);
    flag.where = where;
    ++core.tally.flags;
}

void WaitEvent(HardEvent event, int id, Where where) {
    Core& core = Me();
    if (Ignored(core, event) || event == HardEvent::V_V) return;
    const Ends ends = EndsOf(event);
    Flag& flag = FlagOf(core, event, id, "WaitFlag", where);
    if (!flag.set)
        Fail("WaitFlag", where, "flag %s %d was not set before: pipe %s would wait for ever", NameOf(event), id,
             NameOf(ends.to));
    PipeState& to = core.pipes[ends.to];
    flag.set = false;
    to.known.Join(flag.known);
    to.time = std::max({to.time, flag.time, core.pipes[PIPE_S].time += cost::ISSUE});
}

int FreeEvent(HardEvent event, Where where) {
    Core& core = Me();
    if (event == HardEvent::MAX) Fail("FetchEventID", where, "no flag goes this way");
    const uint8_t held = core.held[static_cast<int>(event)];
    for (int id = 0; id < EVENT_IDS; ++id)
        if ((held >> id & 1) == 0) return id;
    Fail("AllocEventID", where, "all %d identifiers of %s are in use", EVENT_IDS, NameOf(event));
}

int AllocEvent(HardEvent event, Where where) {
    const int id = FreeEvent(event, where);
    Me().held[static_cast<int>(event)] |= static_cast<uint8_t>(1 << id);
    return id;
}

void ReleaseEvent(HardEvent event, int id, Where where) {
    uint8_t& held = Me().held[static_cast<int>(event)];
    if (id < 0 || (held >> id & 1) == 0) Fail("ReleaseEventID", where, "identifier %d of %s is not in use", id, NameOf(event));
    held &= static_cast<uint8_t>(~(1 << id));
}

void Barrier(pipe_t pipe, Where where) {
    Core& core = Me();
    if (pipe == PIPE_S) Fail("PipeBarrier", where, "the scalar pipe has no barrier: PIPE_S hangs the core");
    core.pipes[PIPE_S].time += cost::ISSUE;
    if (pipe != PIPE_ALL) {
        PipeState& mine = core.pipes[pipe];
        mine.known.of[pipe] = mine.clock;
        mine.time = std::max(mine.time, mine.settled);
        return;
    }
    Known all;
    for (int p = 0; p < PIPES; ++p) {
        all.Join(core.pipes[p].known);
        all.of[p] = core.pipes[p].clock;
    }
    const double time = Latest(core);
    for (PipeState& mine : core.pipes) {
        mine.known = all;
        mine.time = std::max(mine.time, time);
    }
}

// ---- flags between cores ----

namespace {

Token TokenOf(Core& core, pipe_t pipe, Where where) {
    PipeState& from = core.pipes[pipe];
    ++core.tally.cross_flags;
    core.pipes[PIPE_S].time += cost::ISSUE;
    return {core.Knows(pipe), std::max({from.time, from.settled, core.pipes[PIPE_S].time}) + cost::CROSS_FLAG, where};
}

void Learn(Core& core, const Token& token) {
    auto merged = std::make_shared<Foreign>(*core.foreign.back());
    for (size_t c = 0; c < merged->size(); ++c) (*merged)[c].Join(token.knows[c]);
    // What others know of this core comes back to it too: those instructions have ended.
    PipeState& scalar = core.pipes[PIPE_S];
    const uint32_t own = scalar.known.of[PIPE_S];
    scalar.known.Join((*merged)[core.index]);
    scalar.known.of[PIPE_S] = own;
    core.foreign.push_back(std::move(merged));
    scalar.time = std::max(scalar.time, token.time);
}

std::vector<Core*> All(Launch& launch, bool cubes, bool vectors) {
    std::vector<Core*> all;
    for (auto& core : launch.cores)
        if (core->kind == Kind::Cube ? cubes : vectors) all.push_back(core.get());
    return all;
}

}  // namespace

void CrossSet(uint8_t mode, pipe_t pipe, uint16_t id, Where where) {
    Core& core = Me();
    Launch& launch = *core.launch;
    if (id >= CROSS_FLAGS)
        Fail("CrossCoreSetFlag", where, "flag %u: 0 to %u are free to use", id, CROSS_FLAGS - 1);
    const bool cube = core.kind == Kind::Cube;
    Token token = TokenOf(core, pipe, where);
    std::unique_lock<std::mutex> guard(launch.lock);
    if (core.tokens[id].size() >= MOST_SETS)
        Fail("CrossCoreSetFlag", where, "flag %u is set more than %zu times with nobody waiting", id, MOST_SETS);
    if (mode == 0) {
        const std::vector<Core*> group = All(launch, cube, !cube);
        const uint32_t a_block = cube ? 1 : launch.vectors;
        launch.Set(launch.across[cube ? 0 : 1], id, core.block * a_block + core.sub,
                   static_cast<uint32_t>(group.size()), std::move(token), group);
    } else if (mode == 1) {
        if (cube) Fail("CrossCoreSetFlag", where, "mode 1 is for the vector cores of a block");
        std::vector<Core*> group;
        for (uint32_t s = 0; s < launch.vectors; ++s) group.push_back(&launch.At(core.block, Kind::Vector, s));
        launch.Set(launch.among[core.block], id, core.sub, launch.vectors, std::move(token), group);
    } else if (mode == 2) {
        if (launch.cubes == 0 || launch.vectors == 0)
            Fail("CrossCoreSetFlag", where, "mode 2 is between cube and vector cores, and this kernel has one kind");
        if (cube) {
            for (uint32_t s = 0; s < launch.vectors; ++s) {
                auto& tokens = launch.At(core.block, Kind::Vector, s).tokens[id];
                if (tokens.size() >= MOST_SETS)
                    Fail("CrossCoreSetFlag", where, "flag %u is set more than %zu times with nobody waiting", id, MOST_SETS);
                tokens.push_back(token);
            }
            launch.changed.notify_all();
        } else {
            launch.Set(launch.between[core.block], id, core.sub, launch.vectors, std::move(token),
                       {&launch.At(core.block, Kind::Cube, 0)});
        }
    } else {
        Fail("CrossCoreSetFlag", where, "mode %u: 0, 1 and 2 are there", mode);
    }
}

void CrossWait(uint16_t id, Where where) {
    Core& core = Me();
    if (id >= CROSS_FLAGS) Fail("CrossCoreWaitFlag", where, "flag %u: 0 to %u are free to use", id, CROSS_FLAGS - 1);
    Learn(core, core.launch->Take(core, id, where));
}

void SyncCores(bool vector_only, Where where) {
    Core& core = Me();
    Launch& launch = *core.launch;
    const bool cube = core.kind == Kind::Cube;
    if (vector_only && cube) Fail("SyncAll", where, "SyncAll<true> is for vector cores: a cube core would wait alone");
    Barrier(PIPE_ALL, where);
    {
        std::unique_lock<std::mutex> guard(launch.lock);
        const std::vector<Core*> group = All(launch, !vector_only, true);
        const uint32_t a_block = vector_only ? launch.vectors : launch.cubes + launch.vectors;
        const uint32_t place = vector_only || cube ? core.sub : launch.cubes + core.sub;
        Token token = TokenOf(core, PIPE_S, where);
        for (int p = 0; p < PIPES; ++p) token.knows[core.index].of[p] = core.pipes[p].clock;
        launch.Set(launch.across[2], SYNC_ALL, core.block * a_block + place, static_cast<uint32_t>(group.size()),
                   std::move(token), group);
    }
    Learn(core, launch.Take(core, SYNC_ALL, where));
}

void SetAtomic(Atomic mode, Type type) {
    Core& core = Me();
    core.atomic = mode;
    core.atomic_type = type;
}

void CleanCache(const twin::Global& tensor, bool all, Where) {
    Core& core = Me();
    if (all) core.cached.clear();
    else core.cached.erase(tensor.address / 64);
    core.pipes[PIPE_S].time += cost::SCALAR_GLOBAL;
}

Place WhereAmI() {
    const Core& core = Me();
    return {core.block, core.launch->blocks, core.sub, core.ratio};
}

uint64_t Cycles() { return static_cast<uint64_t>(Me().pipes[PIPE_S].time); }

// ---- the entry ----

namespace {

template <size_t> using Word = uint64_t;

template <size_t... I> void Call(void* function, const uint64_t* args, std::index_sequence<I...>) {
    reinterpret_cast<void (*)(Word<I>...)>(function)(args[I]...);
}

template <size_t N> void Dispatch(void* function, const uint64_t* args, size_t count) {
    if (count == N) return Call(function, args, std::make_index_sequence<N>());
    if constexpr (N > 0) Dispatch<N - 1>(function, args, count);
}

constexpr size_t MOST_ARGUMENTS = 32;

void Shape(Launch& launch) {
    switch (launch.type) {
        case KERNEL_TYPE_AIV_ONLY: case KERNEL_TYPE_MIX_AIV_1_0: launch.cubes = 0, launch.vectors = 1; break;
        case KERNEL_TYPE_AIC_ONLY: case KERNEL_TYPE_MIX_AIC_1_0: launch.cubes = 1, launch.vectors = 0; break;
        case KERNEL_TYPE_MIX_AIC_1_1: launch.cubes = 1, launch.vectors = 1; break;
        case KERNEL_TYPE_MIX_AIC_1_2: launch.cubes = 1, launch.vectors = 2; break;
    }
    const uint32_t a_block = launch.cubes + launch.vectors;
    auto nothing = std::make_shared<const Foreign>(size_t(launch.blocks) * a_block);
    for (uint32_t i = 0; i < launch.blocks * a_block; ++i) {
        auto core = std::make_unique<Core>();
        const uint32_t place = i % a_block;
        core->launch = &launch;
        core->index = i;
        core->block = i / a_block;
        core->kind = place < launch.cubes ? Kind::Cube : Kind::Vector;
        core->sub = core->kind == Kind::Cube ? 0 : place - launch.cubes;
        core->ratio = core->kind == Kind::Cube ? 1 : launch.vectors;
        core->foreign.push_back(nothing);
        launch.cores.push_back(std::move(core));
    }
    launch.among.resize(launch.blocks);
    launch.between.resize(launch.blocks);
}

void Tally(const Launch& launch, NpuTwinReport& report) {
    for (const auto& core : launch.cores) {
        const double time = Latest(*core);
        for (int p = 0; p < PIPES; ++p) {
            report.all_busy[p] += core->pipes[p].busy;
            report.instructions[p] += core->tally.instructions[p];
            if (core->pipes[p].busy > report.limit_busy) {
                report.limit_busy = core->pipes[p].busy;
                report.limit_pipe = static_cast<uint32_t>(p);
                report.limit_cube = core->kind == Kind::Cube;
            }
            if (time >= report.cycles) report.busy[p] = core->pipes[p].busy;
        }
        report.cycles = std::max(report.cycles, time);
        const NpuTwinReport& own = core->tally;
        report.gm_to_ub += own.gm_to_ub, report.gm_to_l1 += own.gm_to_l1;
        report.ub_to_gm += own.ub_to_gm, report.l0c_to_gm += own.l0c_to_gm;
        report.l1_to_l0a += own.l1_to_l0a, report.l1_to_l0b += own.l1_to_l0b;
        report.cube_macs += own.cube_macs, report.flags += own.flags, report.cross_flags += own.cross_flags;
    }
    report.cube_cores = launch.blocks * launch.cubes;
    report.vector_cores = launch.blocks * launch.vectors;
}

std::string RunKernel(Launch& launch, void* function, const uint64_t* args, uint32_t count, NpuTwinReport& report) {
    if (count > MOST_ARGUMENTS) return Format("%u arguments: %zu at most", count, MOST_ARGUMENTS);
    if (launch.blocks == 0) return "0 blocks";
    launch.body = [=] { Dispatch<MOST_ARGUMENTS>(function, args, count); };
    bool known = false;
    try {
        declared = &launch.type;
        launch.body();
    } catch (const Cancelled&) {
        known = true;
    } catch (const Fault& fault) {
        declared = nullptr;
        return fault.text;
    }
    declared = nullptr;
    if (!known) return "the kernel has no KERNEL_TASK_TYPE_DEFAULT, which says the cores that it wants";
    Shape(launch);
    launch.Run();
    Tally(launch, report);
    if (launch.failed) return launch.fault;
    try {
        for (const auto& core : launch.cores) core->EndOfLaunch();
    } catch (const Fault& fault) {
        return fault.text;
    }
    return FindRace(launch, report);
}

}  // namespace

}  // namespace AscendC::twin

/// Runs `function`, a kernel of this library, on `blocks` blocks. 0 where all went well; otherwise `report->fault` says
/// what did not.
extern "C" int32_t npu_twin_run_v2(const NpuTwinHost* host, void* function, const char* name, uint32_t blocks,
                                   const uint64_t* args, uint32_t count, NpuTwinReport* report) {
    AscendC::twin::Launch launch;
    launch.host = *host;
    launch.host.threads = std::max(1u, host->threads);
    launch.blocks = blocks;
    *report = NpuTwinReport{};
    const std::string fault = AscendC::twin::RunKernel(launch, function, args, count, *report);
    if (fault.empty()) return 0;
    std::snprintf(report->fault, sizeof report->fault, "%s: %s", name, fault.c_str());
    return 1;
}
