// AVX2. vpmaddubsw would saturate, so bytes are widened: even and odd ones apart, which needs no shuffle, and vpmaddwd
// adds two exact products into each sum.
#include "lanes_256.hpp"

namespace kelm {
namespace {

constexpr int kWords = 2;

inline __m256i dot(__m256i sum, __m256i weights, __m256i x_even, __m256i x_odd) {
    const __m256i even = _mm256_and_si256(weights, _mm256_set1_epi16(255)), odd = _mm256_srli_epi16(weights, 8);
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(even, x_even));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(odd, x_odd));
}

inline void dot(Ints &sum, Bytes weights, const std::int32_t *x) {
    const __m256i x_even = _mm256_set1_epi32(x[0]), x_odd = _mm256_set1_epi32(x[1]);
    sum.low = dot(sum.low, weights.low, x_even, x_odd);
    sum.high = dot(sum.high, weights.high, x_even, x_odd);
}

}  // namespace
}  // namespace kelm

#include "linear_groups.hpp"
#include "linear_floats.hpp"

const kelm::Kernels kelm::avx2_kernels = {floats_kernel<Bf16Lines>(), groups_kernel<Int8Lines>(), groups_kernel<Int4Lines>(),
                                          floats_kernel<Float32Lines>()};
