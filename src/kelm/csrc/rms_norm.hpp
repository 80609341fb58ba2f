// Root-mean-square normalisation of float32 rows (Zhang and Sennrich 2019, equation 4):
//
//     y[i] = (x[i] * r) * g[i],   r = 1 / sqrt(sum(x*x) / hidden + eps),   g = weight, or 1 + weight
//
// The sum has one order everywhere, so that a row has the same bits on every instruction set, alone or in a batch:
//
//     lane l adds x[l]^2, x[l+16]^2, x[l+32]^2, ...     (a multiply and an add, two roundings)
//     then lanes fold in halves: l += l+8, l += l+4, l += l+2, l += l+1
#pragma once

#include <cstdint>

namespace kelm {

struct RmsNorm {
    const float *x;       // [rows, hidden], rows x_stride floats apart
    const float *weight;  // [hidden]
    float *out;           // [rows, hidden], rows out_stride floats apart; may be x itself
    std::int64_t rows;
    std::int64_t hidden;
    std::int64_t x_stride;
    std::int64_t out_stride;
    float eps;
    bool unit_offset;  // g = 1 + weight (Gemma) instead of weight
};

void rms_norm_portable(const RmsNorm &op);
void rms_norm_avx2(const RmsNorm &op);
void rms_norm_avx512(const RmsNorm &op);

}  // namespace kelm
