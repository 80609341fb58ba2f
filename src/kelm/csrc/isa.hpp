// The instruction sets that kernels are compiled for, worst first. Not every machine that has one has all before it
// (avx512_vnni without avx_vnni is common): ask.
#pragma once

namespace kelm {

enum class Isa : int {
    portable = 0,
    avx2 = 1,         // with FMA and F16C, as every CPU with AVX2 has
    avx_vnni = 2,     // avx2, and 8-bit dot products in 256 bits
    avx512 = 3,       // F, BW, VL
    avx512_vnni = 4,  // avx512, and 8-bit dot products in 512 bits
    amx = 5,          // avx512_vnni, and tiles for int8 and bf16
    amx_emulated = 6  // avx512_vnni, and the amx units with tiles in plain C++: for tests, never chosen
};

constexpr int kIsas = 7;

// Whether this build, this CPU and its operating system have it. cpuid, never the build machine. The first question
// about amx asks Linux for the right to use tile registers, which every thread of the process then has.
bool machine_has(Isa isa);

}  // namespace kelm
