// Sixteen lanes are two registers of AVX2, FMA and F16C. What is not here is the unit's own: dot() and kWords.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace kelm {
namespace {

struct Floats {
    __m256 low, high;

    static Floats all(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
    static Floats load(const float *from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
    static Floats half(const std::uint8_t *from) {
        const auto *two = reinterpret_cast<const __m128i *>(from);
        return {_mm256_cvtph_ps(_mm_loadu_si128(two)), _mm256_cvtph_ps(_mm_loadu_si128(two + 1))};
    }
    void store(float *to) const {
        _mm256_storeu_ps(to, low);
        _mm256_storeu_ps(to + 8, high);
    }
};

inline Floats operator*(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline Floats fma(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

struct Ints {
    __m256i low, high;

    static Ints all(std::int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
    Floats to_floats() const { return {_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)}; }
};

struct Bytes {
    __m256i low, high;

    static Bytes load(const std::uint8_t *from) {
        const auto *two = reinterpret_cast<const __m256i *>(from);
        return {_mm256_loadu_si256(two), _mm256_loadu_si256(two + 1)};
    }
    Bytes low_halves() const {
        const __m256i mask = _mm256_set1_epi8(15);
        return {_mm256_and_si256(low, mask), _mm256_and_si256(high, mask)};
    }
    Bytes high_halves() const { return Bytes{_mm256_srli_epi16(low, 4), _mm256_srli_epi16(high, 4)}.low_halves(); }
};

inline __m256i without_sign(__m256 x) { return _mm256_and_si256(_mm256_castps_si256(x), _mm256_set1_epi32(0x7fffffff)); }

inline std::uint32_t peak_bits(Floats a, Floats b) {
    const __m256i most = _mm256_max_epi32(_mm256_max_epi32(without_sign(a.low), without_sign(a.high)),
                                          _mm256_max_epi32(without_sign(b.low), without_sign(b.high)));
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    four = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0xb1));
    return static_cast<std::uint32_t>(_mm_cvtsi128_si32(four));
}

inline std::int32_t quantize(Floats a, Floats b, float by, std::int8_t *q) {
    const __m256 r = _mm256_set1_ps(by);
    const __m256i i0 = _mm256_cvtps_epi32(_mm256_mul_ps(a.low, r)), i1 = _mm256_cvtps_epi32(_mm256_mul_ps(a.high, r)),
                  i2 = _mm256_cvtps_epi32(_mm256_mul_ps(b.low, r)), i3 = _mm256_cvtps_epi32(_mm256_mul_ps(b.high, r));
    // The packs work within halves of 128 bits; the last permutation puts the fours in order.
    const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(i0, i1), _mm256_packs_epi32(i2, i3));
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(q),
                        _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
    const __m256i sums = _mm256_add_epi32(_mm256_add_epi32(i0, i1), _mm256_add_epi32(i2, i3));
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
    four = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0xb1));
    return _mm_cvtsi128_si32(four);
}

inline void split(const std::uint8_t *line, Floats &even, Floats &odd) {
    const Bytes pairs = Bytes::load(line);
    const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
    even = {_mm256_castsi256_ps(_mm256_slli_epi32(pairs.low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(pairs.high, 16))};
    odd = {_mm256_castsi256_ps(_mm256_and_si256(pairs.low, upper)), _mm256_castsi256_ps(_mm256_and_si256(pairs.high, upper))};
}

inline __m256 round_bf16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i nearest = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i kept = _mm256_blendv_epi8(nearest, quiet, nan);
    return _mm256_castsi256_ps(_mm256_and_si256(kept, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
}

inline Floats round_bf16(Floats x) { return {round_bf16(x.low), round_bf16(x.high)}; }

constexpr int kRows = 2, kTiles = 1, kFloatRows = 6, kFloatTiles = 1, kOneRowTiles = 2;

}  // namespace
}  // namespace kelm
