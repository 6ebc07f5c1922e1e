// Times that the vendor's public tables do not give, each with what it stands on. They shape how far a kernel's pipes
// overlap; the bound of a kernel that is limited by bytes or by products hardly moves with them.
#pragma once

namespace AscendC::twin::cost {

/// Cycles of the scalar unit to form an instruction's operands and hand it to its pipe.
constexpr double ISSUE = 4;
/// From the last repeat of a vector instruction to its results: what a barrier or a flag waits for.
constexpr double VECTOR_SETTLES = 20;
/// A repeat of 256 bytes: most instructions one cycle, those with an iterative unit (division, roots, exponentials,
/// logarithms) four, as public profiles of softmax kernels on the chip show them.
constexpr double REPEAT = 1, REPEAT_SLOW = 4;
/// Reductions go through an adder tree twice, gathers take a bank a cycle, a sort compares its 32 in five rounds.
constexpr double REPEAT_FOLD = 2, REPEAT_GATHER = 8, REPEAT_SORT = 16;
/// From the issue of a copy to its first byte: L2 and the network on the chip.
constexpr double COPY_SETTLES = 350;
/// Cycles that a burst of a strided copy takes at least: short rows do not reach the path's rate.
constexpr double BURST = 2;
constexpr double CUBE_SETTLES = 30;
/// A scalar load or store that finds its line in the core's cache, and one that goes out to the L2 cache.
constexpr double SCALAR_LOCAL = 3, SCALAR_GLOBAL = 200;
/// A flag between cores, there and back through the synchronisation unit.
constexpr double CROSS_FLAG = 200;

}  // namespace AscendC::twin::cost
