// AVX-512: 16 lanes are one register.
#include <immintrin.h>

namespace kelm {
namespace {

struct Lanes {
    __m512 v;

    static Lanes fill(float value) { return {_mm512_set1_ps(value)}; }
    static Lanes load(const float *from) { return {_mm512_loadu_ps(from)}; }
    void store(float *to) const { _mm512_storeu_ps(to, v); }
};

inline Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }

}  // namespace
}  // namespace kelm

#include "rms_norm_rows.hpp"

void kelm::rms_norm_avx512(const RmsNorm &op) { rms_norm_rows(op); }
