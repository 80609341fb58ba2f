// The instruction sets that kernels are compiled for, worst first: a machine that has one has all before it.
#pragma once

namespace kelm {

enum class Isa : int { portable = 0, avx2 = 1, avx512 = 2 };

// The best one that both this build and this CPU (and its operating system) have. cpuid, never the build machine.
Isa best_isa();

}  // namespace kelm
