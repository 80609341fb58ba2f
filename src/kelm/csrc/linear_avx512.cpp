// AVX-512 without VNNI. vpmaddubsw would saturate, so bytes are widened: even and odd ones apart, which needs no
// shuffle, and vpmaddwd adds two exact products into each sum.
#include "lanes_512.hpp"

namespace kelm {
namespace {

constexpr int kWords = 2;

inline void dot(Ints &sum, Bytes weights, const std::int32_t *x) {
    const __m512i even = _mm512_and_si512(weights.v, _mm512_set1_epi16(255)), odd = _mm512_srli_epi16(weights.v, 8);
    sum.v = _mm512_add_epi32(sum.v, _mm512_madd_epi16(even, _mm512_set1_epi32(x[0])));
    sum.v = _mm512_add_epi32(sum.v, _mm512_madd_epi16(odd, _mm512_set1_epi32(x[1])));
}

}  // namespace
}  // namespace kelm

#include "linear_groups.hpp"
#include "linear_floats.hpp"

const kelm::Kernels kelm::avx512_kernels = {floats_kernel<Bf16Lines>(), groups_kernel<Int8Lines>(), groups_kernel<Int4Lines>(),
                                          floats_kernel<Float32Lines>()};
