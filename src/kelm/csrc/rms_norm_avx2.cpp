// AVX2: 16 lanes as two registers of eight.
#include <immintrin.h>

namespace kelm {
namespace {

struct Lanes {
    __m256 low, high;

    static Lanes fill(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
    static Lanes load(const float *from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
    void store(float *to) const {
        _mm256_storeu_ps(to, low);
        _mm256_storeu_ps(to + 8, high);
    }
};

inline Lanes operator+(Lanes a, Lanes b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }

}  // namespace
}  // namespace kelm

#include "rms_norm_rows.hpp"

void kelm::rms_norm_avx2(const RmsNorm &op) { rms_norm_rows(op); }
