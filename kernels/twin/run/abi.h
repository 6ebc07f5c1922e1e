// What a library of twin kernels and the program that runs it say to each other. All of it is plain C; a change of
// anything here changes the version, which is part of the entry's name.
#pragma once

#include <cstdint>

extern "C" {

/// Sizes and rates of the chip, per core; rates in bytes a cycle.
struct NpuTwinSoc {
    uint32_t ub, l1, l0a, l0b, l0c, bt, fb;
    /// Blocks that share the memory's rate all the time, where a launch is known to wait for it; 0 to read at the cache's
    /// rate, and leave it to who asked to hold the time against that of the bytes.
    uint32_t sharing;
    double frequency_mhz;
    /// The memory's rate over all cores.
    double hbm;
    /// Between the L2 cache and a core's local memories.
    double l2_read, l2_write;
    double l1_to_l0a, l1_to_l0b, l0c_to_gm;
};

/// An allocation in device memory: [base, end) on the device, which the host sees at `host`.
struct NpuTwinSpan {
    uint64_t base, end;
    uint8_t* host;
    uint32_t writable, reserved;
};

struct NpuTwinHost {
    uint32_t version, threads;
    void* context;
    const NpuTwinSoc* soc;
    /// Finds the allocation around `address`; 0 where there is none. May be called from several threads at once.
    int32_t (*translate)(void* context, uint64_t address, NpuTwinSpan* span);
    /// Told of each range that was touched, once the launch has ended: for the host's own books.
    void (*touched)(void* context, uint64_t start, uint64_t end, uint32_t written);
};

enum { NPU_TWIN_PIPES = 7 };

/// What a launch cost. Bytes and counts over all cores; `cycles` and `busy` are of the core that ended last.
struct NpuTwinReport {
    double cycles;
    double busy[NPU_TWIN_PIPES];
    double all_busy[NPU_TWIN_PIPES];
    uint64_t instructions[NPU_TWIN_PIPES];
    uint64_t gm_to_ub, gm_to_l1, ub_to_gm, l0c_to_gm, l1_to_l0a, l1_to_l0b;
    /// Distinct bytes of device memory that were read and that were written.
    uint64_t gm_read_once, gm_written_once;
    uint64_t cube_macs, flags, cross_flags;
    uint32_t cube_cores, vector_cores;
    /// The busiest pipe of any core: its number, whether it is a cube core's, and for how many cycles.
    uint32_t limit_pipe, limit_cube;
    double limit_busy;
    /// The first broken rule, empty where none was: kernel, file:line, instruction, rule.
    char fault[2048];
};

}
