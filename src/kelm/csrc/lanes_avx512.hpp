// Lanes (lanes_portable.hpp) as one register of AVX-512.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace kelm {
namespace {

struct Lanes {
    __m512 v;

    static Lanes fill(float value) { return {_mm512_set1_ps(value)}; }
    static Lanes load(const float *from) { return {_mm512_loadu_ps(from)}; }
    void store(float *to) const { _mm512_storeu_ps(to, v); }
    void store_bf16(void *to) const {
        const __m512i bits = _mm512_castps_si512(v);
        const __m512i even = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
        const __m512i half = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(even, _mm512_set1_epi32(0x7fff))), 16);
        const __m512i whole = _mm512_mask_mov_epi32(half, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
        _mm256_storeu_si256(static_cast<__m256i *>(to), _mm512_cvtepi32_epi16(whole));
    }
    static Lanes max(Lanes a, Lanes b) { return {_mm512_max_ps(a.v, b.v)}; }
    static Lanes nearest(Lanes a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
    Lanes times_two_to(Lanes n) const { return {_mm512_scalef_ps(v, n.v)}; }
    static Lanes select_less(Lanes a, Lanes b, Lanes then, Lanes other) {
        return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), other.v, then.v)};
    }
    float first() const { return _mm512_cvtss_f32(v); }
};

inline Lanes operator+(Lanes a, Lanes b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Lanes operator-(Lanes a, Lanes b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Lanes operator*(Lanes a, Lanes b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Lanes operator/(Lanes a, Lanes b) { return {_mm512_div_ps(a.v, b.v)}; }

#if defined(__AVX512BF16__)
// One instruction, which rounds in another way than a product and a sum: an arithmetic of its own.
inline Lanes dot_pairs(Lanes sum, const std::uint8_t *at, std::uint32_t by) {
    const __m512i pairs = _mm512_loadu_si512(at);
    const __m512i q = _mm512_set1_epi32(static_cast<int>(by));
    return {_mm512_dpbf16_ps(sum.v, reinterpret_cast<__m512bh>(pairs), reinterpret_cast<__m512bh>(q))};
}
#else
inline Lanes dot_pairs(Lanes sum, const std::uint8_t *at, std::uint32_t by) {
    const __m512i pairs = _mm512_loadu_si512(at), high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    const __m512i q = _mm512_set1_epi32(static_cast<int>(by));
    const Lanes first = sum + Lanes{_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16))} *
                                  Lanes{_mm512_castsi512_ps(_mm512_slli_epi32(q, 16))};
    return first + Lanes{_mm512_castsi512_ps(_mm512_and_si512(pairs, high))} *
                       Lanes{_mm512_castsi512_ps(_mm512_and_si512(q, high))};
}
#endif

}  // namespace
}  // namespace kelm

#include "lanes_folds.hpp"
