// What a step does to rows one by one (step.hpp). Every element has one arithmetic, whichever rows are beside it.
#pragma once

#include <cstdint>

#include "step.hpp"

namespace kelm {

void layer_norm_row(const float *x, const float *weight, const float *bias, std::int64_t width, float eps, float *out);

// cos and sin of position * frequencies, times `factor`: out[0 ... pairs - 1] and out[pairs ...].
void angles_row(std::int64_t position, const float *frequencies, std::int64_t pairs, float factor, float *out);

// Turn the pairs (x[i], x[i + width / 2]) of each head.
void rotate_row(float *x, const float *angles, std::int64_t heads, std::int64_t width);

void activate_row(const float *x, std::int64_t width, Activation kind, float *out);

// x: 16 of the gate, 16 of up, 16 of the gate, ...
void gate_row(const float *x, std::int64_t width, Activation kind, float *out);

void add_row(const float *x, std::int64_t width, float *out);

// out[o] += sum over r of (sum over i of x[i] * a[r][i]) * b[r][o], r rising.
void low_rank_row(const float *x, std::int64_t inputs, const float *a, const float *b, std::int64_t rank,
                  std::int64_t width, float *out);

void soft_cap_row(float *x, std::int64_t width, float cap);

}  // namespace kelm
