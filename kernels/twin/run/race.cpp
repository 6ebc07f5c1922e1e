// The search for unordered accesses to device memory, over the whole launch in the order in which it happened.
#include <algorithm>

#include "launch.h"

namespace AscendC::twin {

namespace {

struct Run {
    uint64_t start, end;
};

/// Calls `visit` with each run of bytes of an access.
template <typename Visit> void Runs(const Access& access, Visit visit) {
    for (uint64_t row = 0; row < access.rows; ++row) {
        uint64_t start = access.address + row * access.pitch, end = start + access.bytes;
        visit(Run{start, end});
    }
}

/// What is known of a run of bytes: the last write, and the reads since.
struct Cell {
    uint64_t end;
    const Access* wrote;
    std::vector<const Access*> read;
};
using Cells = std::map<uint64_t, Cell>;

bool Before(const Launch& launch, const Access& first, const Access& then) {
    if (first.core == then.core) {
        if (first.pipe == PIPE_S && then.pipe == PIPE_S) return true;
        // A scalar load has its value before the core goes on.
        if (first.pipe == PIPE_S && first.touch == Touch::Read) return true;
        if (first.clock == then.clock && first.pipe == then.pipe) return true;
        return then.known.of[first.pipe] >= first.clock;
    }
    const Foreign& knows = *launch.cores[then.core]->foreign[then.foreign];
    return knows[first.core].of[first.pipe] >= first.clock;
}

std::string Describe(const Launch& launch, const Access& access) {
    const Core& core = *launch.cores[access.core];
    const Site& site = core.sites[access.site];
    return Format("%s:%u: %s %s (block %u, %s core %u, pipe %s)", site.where.file, site.where.line, site.name,
                  access.touch == Touch::Read ? "reads" : "writes", core.block,
                  core.kind == Kind::Cube ? "cube" : "vector", core.sub, NameOf(static_cast<pipe_t>(access.pipe)));
}

std::string Race(const Launch& launch, const Access& first, const Access& then, Run run) {
    const Core &a = *launch.cores[first.core], &b = *launch.cores[then.core];
    const char* rule = a.index == b.index ? "a flag between the two pipes, or a barrier, is missing"
                       : a.block != b.block && first.touch != Touch::Read && then.touch != Touch::Read
                           ? "two blocks write one address"
                           : "a cross-core flag is missing";
    return Format("%s bytes %#lx to %#lx of device memory; %s: nothing orders the two, %s", Describe(launch, then).c_str(),
                  (unsigned long)run.start, (unsigned long)run.end, Describe(launch, first).c_str(), rule);
}

uint64_t Union(std::vector<Run>& runs) {
    std::sort(runs.begin(), runs.end(), [](const Run& a, const Run& b) { return a.start < b.start; });
    std::vector<Run> merged;
    uint64_t bytes = 0;
    for (const Run& run : runs) {
        if (!merged.empty() && run.start <= merged.back().end) merged.back().end = std::max(merged.back().end, run.end);
        else merged.push_back(run);
    }
    for (const Run& run : merged) bytes += run.end - run.start;
    runs = std::move(merged);
    return bytes;
}

/// Splits the cells at `at`, if a cell spans it.
void SplitAt(Cells& cells, uint64_t at) {
    auto next = cells.upper_bound(at);
    if (next == cells.begin()) return;
    auto cell = std::prev(next);
    if (cell->first == at || cell->second.end <= at) return;
    Cell tail = cell->second;
    cell->second.end = at;
    cells.emplace(at, std::move(tail));
}

std::string Follow(const Launch& launch, Cells& cells, const Access& access, Run run) {
    SplitAt(cells, run.start);
    SplitAt(cells, run.end);
    const bool writes = access.touch != Touch::Read;
    uint64_t at = run.start;
    auto cell = cells.lower_bound(run.start);
    while (at < run.end) {
        if (cell == cells.end() || cell->first > at) {
            const uint64_t end = cell == cells.end() ? run.end : std::min(run.end, cell->first);
            cell = cells.emplace_hint(cell, at, Cell{end, nullptr, {}});
        }
        Cell& known = cell->second;
        const bool both_add = known.wrote != nullptr && known.wrote->touch == Touch::Atomic && access.touch == Touch::Atomic;
        if (known.wrote != nullptr && !both_add && !Before(launch, *known.wrote, access))
            return Race(launch, *known.wrote, access, {at, known.end});
        if (writes) {
            for (const Access* read : known.read)
                if (!(read->core == access.core && read->pipe == access.pipe) && !Before(launch, *read, access))
                    return Race(launch, *read, access, {at, known.end});
            known.wrote = &access;
            known.read.clear();
        } else {
            auto same = std::find_if(known.read.begin(), known.read.end(), [&](const Access* read) {
                return read->core == access.core && read->pipe == access.pipe;
            });
            if (same == known.read.end()) known.read.push_back(&access);
            else *same = &access;
        }
        at = known.end;
        ++cell;
    }
    return {};
}

}  // namespace

std::string FindRace(const Launch& launch, NpuTwinReport& report) {
    std::vector<const Access*> all;
    std::vector<Run> written, read;
    for (const auto& core : launch.cores) {
        for (const Access& access : core->accesses) {
            all.push_back(&access);
            auto& runs = access.touch == Touch::Read ? read : written;
            Runs(access, [&](Run run) { runs.push_back(run); });
        }
    }
    report.gm_written_once = Union(written);
    report.gm_read_once = Union(read);
    if (launch.host.touched != nullptr) {
        for (const Run& run : read) launch.host.touched(launch.host.context, run.start, run.end, 0);
        for (const Run& run : written) launch.host.touched(launch.host.context, run.start, run.end, 1);
    }
    std::sort(all.begin(), all.end(), [](const Access* a, const Access* b) { return a->order < b->order; });
    Cells cells;
    std::string race;
    for (const Access* access : all) {
        Runs(*access, [&](Run run) {
            if (!race.empty()) return;
            // What nobody writes cannot race.
            auto near = std::upper_bound(written.begin(), written.end(), run.start,
                                         [](uint64_t at, const Run& other) { return at < other.end; });
            if (near == written.end() || near->start >= run.end) return;
            race = Follow(launch, cells, *access, run);
        });
        if (!race.empty()) return race;
    }
    return {};
}

}  // namespace AscendC::twin
