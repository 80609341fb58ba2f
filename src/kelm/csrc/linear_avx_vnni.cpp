// AVX2 with VNNI: one instruction multiplies 32 bytes and adds fours of products to 8 sums, without saturation.
#include "lanes_256.hpp"

namespace kelm {
namespace {

constexpr int kWords = 1;

inline void dot(Ints &sum, Bytes weights, const std::int32_t *x) {
    const __m256i four = _mm256_set1_epi32(*x);
    sum.low = _mm256_dpbusd_avx_epi32(sum.low, weights.low, four);
    sum.high = _mm256_dpbusd_avx_epi32(sum.high, weights.high, four);
}

}  // namespace
}  // namespace kelm

#include "linear_groups.hpp"
#include "linear_floats.hpp"

const kelm::Kernels kelm::avx_vnni_kernels = {floats_kernel<Bf16Lines>(), groups_kernel<Int8Lines>(), groups_kernel<Int4Lines>(),
                                          floats_kernel<Float32Lines>()};
