// AVX-512 with VNNI: one instruction multiplies 64 bytes and adds fours of products to 16 sums, without saturation.
#include "lanes_512.hpp"

namespace kelm {
namespace {

constexpr int kWords = 1;

inline void dot(Ints &sum, Bytes weights, const std::int32_t *x) {
    sum.v = _mm512_dpbusd_epi32(sum.v, weights.v, _mm512_set1_epi32(*x));
}

}  // namespace
}  // namespace kelm

#include "linear_groups.hpp"
#include "linear_floats.hpp"

const kelm::Kernels kelm::avx512_vnni_kernels = {floats_kernel<Bf16Lines>(), groups_kernel<Int8Lines>(), groups_kernel<Int4Lines>(),
                                          floats_kernel<Float32Lines>()};
