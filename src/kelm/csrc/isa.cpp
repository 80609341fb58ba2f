#include "isa.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(KELM_AMX)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace kelm {
namespace {

#if defined(__x86_64__)

// What the compiler's own builtins do not know in all the versions that we build with.
struct Leaf7 {
    unsigned c0 = 0, d0 = 0;  // ecx and edx of subleaf 0
    unsigned a1 = 0;          // eax of subleaf 1

    Leaf7() {
        unsigned a, b, c, d;
        if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) c0 = c, d0 = d;
        if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) a1 = a;
    }
};

bool bit(unsigned word, int index) { return (word >> index & 1) != 0; }

bool f16c() {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && bit(c, 29);
}

bool tiles_granted() {
#if defined(KELM_AMX)
    constexpr long kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
#else
    return false;
#endif
}

struct Machine {
    bool has[kIsas] = {true};

    Machine() {
        __builtin_cpu_init();  // the builtins also look whether the operating system saves the registers
        const Leaf7 more;
        const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c();
        const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512vl");
        const bool vnni = avx512 && bit(more.c0, 11);
        has[static_cast<int>(Isa::avx2)] = avx2;
#if defined(KELM_AVX_VNNI)
        has[static_cast<int>(Isa::avx_vnni)] = avx2 && bit(more.a1, 4);
#endif
        has[static_cast<int>(Isa::avx512)] = avx512;
        has[static_cast<int>(Isa::avx512_vnni)] = vnni;
        const bool amx = vnni && bit(more.d0, 22) && bit(more.d0, 24) && bit(more.d0, 25);  // bf16, tile, int8
        has[static_cast<int>(Isa::amx)] = amx && tiles_granted();
        has[static_cast<int>(Isa::amx_emulated)] = vnni;
    }
};

#else

struct Machine {
    bool has[kIsas] = {true};
};

#endif

}  // namespace

bool machine_has(Isa isa) {
    static const Machine machine;
    const int index = static_cast<int>(isa);
    return index >= 0 && index < kIsas && machine.has[index];
}

}  // namespace kelm
