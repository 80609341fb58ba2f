// Lanes (lanes_portable.hpp) as two registers of AVX2.
#pragma once

#include <immintrin.h>

#include <cstdint>

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
    static __m256i rounded(__m256 a) {
        const __m256i bits = _mm256_castps_si256(a);
        const __m256i even = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
        const __m256i half = _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(even, _mm256_set1_epi32(0x7fff))), 16);
        const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_UNORD_Q));
        return _mm256_blendv_epi8(half, _mm256_set1_epi32(0x7fc0), nan);
    }
    void store_bf16(void *to) const {
        const __m256i packed = _mm256_packus_epi32(rounded(low), rounded(high));  // by quarters: 0 2 1 3
        _mm256_storeu_si256(static_cast<__m256i *>(to), _mm256_permute4x64_epi64(packed, 0xd8));
    }
    static Lanes max(Lanes a, Lanes b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
    static Lanes nearest(Lanes a) {
        constexpr int how = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        return {_mm256_round_ps(a.low, how), _mm256_round_ps(a.high, how)};
    }
    static __m256 power_of_two(__m256 n) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23));
    }
    Lanes times_two_to(Lanes n) const {
        return {_mm256_mul_ps(low, power_of_two(n.low)), _mm256_mul_ps(high, power_of_two(n.high))};
    }
    static __m256 pick(__m256 a, __m256 b, __m256 then, __m256 other) {
        return _mm256_blendv_ps(other, then, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
    }
    static Lanes select_less(Lanes a, Lanes b, Lanes then, Lanes other) {
        return {pick(a.low, b.low, then.low, other.low), pick(a.high, b.high, then.high, other.high)};
    }
    float first() const { return _mm256_cvtss_f32(low); }
};

inline Lanes operator+(Lanes a, Lanes b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Lanes operator-(Lanes a, Lanes b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline Lanes operator/(Lanes a, Lanes b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }

inline __m256 low_halves(__m256i pairs) { return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16)); }
inline __m256 high_halves(__m256i pairs) {
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}

inline Lanes dot_pairs(Lanes sum, const std::uint8_t *at, std::uint32_t by) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(at));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(at + 32));
    const __m256i q = _mm256_set1_epi32(static_cast<int>(by));
    const Lanes first = sum + Lanes{low_halves(a), low_halves(b)} * Lanes{low_halves(q), low_halves(q)};
    return first + Lanes{high_halves(a), high_halves(b)} * Lanes{high_halves(q), high_halves(q)};
}

}  // namespace
}  // namespace kelm

#include "lanes_folds.hpp"
