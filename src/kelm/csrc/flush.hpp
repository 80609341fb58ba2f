// Flush-to-zero for as long as one lives: results and operands below the normal range count as zero. A denormal costs
// a hundred cycles and is worth nothing here; tiny softmax weights alone made attention ten times slower.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace kelm {

class FlushDenormals {
  public:
    FlushDenormals() : before_(get()) { set(kFlush); }
    ~FlushDenormals() { set(before_); }
    FlushDenormals(const FlushDenormals &) = delete;
    FlushDenormals &operator=(const FlushDenormals &) = delete;

  private:
#if defined(__x86_64__)
    static constexpr std::uint64_t kFlush = 0x9fc0;  // FTZ, DAZ, no traps, round to nearest even
    static std::uint64_t get() { return _mm_getcsr(); }
    static void set(std::uint64_t value) { _mm_setcsr(static_cast<unsigned>(value)); }
#elif defined(__aarch64__)
    static constexpr std::uint64_t kFlush = 1u << 24;  // FZ, no traps, round to nearest even
    static std::uint64_t get() {
        std::uint64_t value;
        __asm__ volatile("mrs %0, fpcr" : "=r"(value));
        return value;
    }
    static void set(std::uint64_t value) { __asm__ volatile("msr fpcr, %0" ::"r"(value)); }
#else
    static constexpr std::uint64_t kFlush = 0;
    static std::uint64_t get() { return 0; }
    static void set(std::uint64_t) {}
#endif
    std::uint64_t before_;
};

}  // namespace kelm
