// Sixteen lanes are one AVX-512 register. What is not here is the unit's own: dot() and kWords.
#pragma once

// GCC 12 finds its own header's deliberately undefined values (its bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

#include <cstdint>

namespace kelm {
namespace {

struct Floats {
    __m512 v;

    static Floats all(float value) { return {_mm512_set1_ps(value)}; }
    static Floats load(const float *from) { return {_mm512_loadu_ps(from)}; }
    static Floats half(const std::uint8_t *from) {
        return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)))};
    }
    void store(float *to) const { _mm512_storeu_ps(to, v); }
};

inline Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Floats fma(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

struct Ints {
    __m512i v;

    static Ints all(std::int32_t value) { return {_mm512_set1_epi32(value)}; }
    Floats to_floats() const { return {_mm512_cvtepi32_ps(v)}; }
};

struct Bytes {
    __m512i v;

    static Bytes load(const std::uint8_t *from) { return {_mm512_loadu_si512(from)}; }
    Bytes low_halves() const { return {_mm512_and_si512(v, _mm512_set1_epi8(15))}; }
    Bytes high_halves() const { return {_mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15))}; }
};

inline std::uint32_t peak_bits(Floats a, Floats b) {
    const __m512i no_sign = _mm512_set1_epi32(0x7fffffff);
    return _mm512_reduce_max_epu32(_mm512_max_epu32(_mm512_and_si512(_mm512_castps_si512(a.v), no_sign),
                                                    _mm512_and_si512(_mm512_castps_si512(b.v), no_sign)));
}

inline std::int32_t quantize(Floats a, Floats b, float by, std::int8_t *q) {
    const __m512i low = _mm512_cvtps_epi32((a * Floats::all(by)).v), high = _mm512_cvtps_epi32((b * Floats::all(by)).v);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(q), _mm512_cvtepi32_epi8(low));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(q + 16), _mm512_cvtepi32_epi8(high));
    return _mm512_reduce_add_epi32(_mm512_add_epi32(low, high));
}

inline void split(const std::uint8_t *line, Floats &even, Floats &odd) {
    const __m512i pairs = _mm512_loadu_si512(line);
    even.v = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    odd.v = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}

inline Floats round_bf16(Floats x) {
    const __m512i bits = _mm512_castps_si512(x.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i nearest = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_or_epi32(nearest, nan, bits, _mm512_set1_epi32(0x400000));
    return {_mm512_castsi512_ps(_mm512_and_si512(kept, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
}

constexpr int kRows = 6, kTiles = 2, kFloatRows = 12, kFloatTiles = 2, kOneRowTiles = 4;

}  // namespace
}  // namespace kelm
