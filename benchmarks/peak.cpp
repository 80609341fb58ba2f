// What one core multiplies when everything is in registers: the ceiling of products with many rows.
// Prints 10^9 operations a second for each instruction, a multiplication and an addition being two.
#include <algorithm>
#include <chrono>
#include <cstdio>

// Twelve sums that do not wait for each other. As text, because compilers put sums in memory when they are many.
#define TWELVE(step)                                                                                          \
    step "0\n" step "1\n" step "2\n" step "3\n" step "4\n" step "5\n" step "6\n" step "7\n" step "8\n" step "9\n" \
    step "10\n" step "11\n"
#define MEASURE(name, step, operations)                                                                       \
    std::printf("%s: %.0f\n", name, 12 * operations / best_ns([] {                                            \
                    long left = kTurns;                                                                       \
                    __asm__ volatile("1:\n" TWELVE(step) "dec %0\njnz 1b" : "+r"(left) : : USED);             \
                }))
#define USED                                                                                                        \
    "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm14", \
        "xmm15"

namespace {

constexpr int kTurns = 50000, kTries = 300;

template <typename Run>
double best_ns(const Run &run) {
    using Clock = std::chrono::steady_clock;
    double best = 1e18;
    for (int i = 0; i < kTries; ++i) {
        const auto start = Clock::now();
        run();
        best = std::min(best, std::chrono::duration<double, std::nano>(Clock::now() - start).count());
    }
    return best / kTurns;
}

}  // namespace

int main() {
#if defined(__AVX512F__)
    MEASURE("fma, 512 bits of float32", "vfmadd231ps %%zmm15, %%zmm14, %%zmm", 32);
#elif defined(__FMA__)
    MEASURE("fma, 256 bits of float32", "vfmadd231ps %%ymm15, %%ymm14, %%ymm", 16);
#endif
#if defined(__AVX512BF16__)
    MEASURE("vdpbf16ps, 512 bits of bf16", "vdpbf16ps %%zmm15, %%zmm14, %%zmm", 64);
#endif
#if defined(__AVX512VNNI__)
    MEASURE("vpdpbusd, 512 bits of int8", "vpdpbusd %%zmm15, %%zmm14, %%zmm", 128);
#endif
}
