// What a step does to rows one by one (step.hpp), and to a product's results before they are written (linear.hpp). Every
// element has one arithmetic, whichever others are beside it and on every instruction set.
#pragma once

#include <cstdint>

#include "isa.hpp"

namespace kelm {

enum class Activation : int { none = 0, silu = 1, gelu = 2, gelu_tanh = 3, relu = 4, tanh = 5 };
constexpr int kActivations = 6;

struct RowOps {
    void (*layer_norm)(const float *x, const float *weight, const float *bias, std::int64_t width, float eps, float *out);

    // cos and sin of position * frequencies, times `factor`: out[0 ... pairs - 1] and out[pairs ...].
    void (*angles)(std::int64_t position, const float *frequencies, std::int64_t pairs, float factor, float *out);

    // Turn the pairs (x[i], x[i + width / 2]) of each head.
    void (*rotate)(float *x, const float *angles, std::int64_t heads, std::int64_t width);

    void (*activate)(const float *x, std::int64_t width, Activation kind, float *out);

    // x: 16 of the gate, 16 of up, 16 of the gate, ...; out[i] = act(gate[i]) * up[i].
    void (*gate)(const float *x, std::int64_t width, Activation kind, float *out);

    void (*add)(const float *x, std::int64_t width, float *out);

    // out[o] += sum over r of (sum over i of x[i] * a[r][i]) * b[r][o], r rising.
    void (*low_rank)(const float *x, std::int64_t inputs, const float *a, const float *b, std::int64_t rank,
                     std::int64_t width, float *out);

    void (*soft_cap)(float *x, std::int64_t width, float cap);
};

extern const RowOps portable_row_ops;
#if defined(__x86_64__)
extern const RowOps avx2_row_ops;
extern const RowOps avx512_row_ops;
#endif

inline const RowOps &row_ops_of(Isa isa) {
#if defined(__x86_64__)
    if (isa >= Isa::avx512) return avx512_row_ops;
    if (isa >= Isa::avx2) return avx2_row_ops;
#endif
    (void)isa;
    return portable_row_ops;
}

}  // namespace kelm
