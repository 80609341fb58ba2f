// y = x @ W.T (+ bias) for packed weights: from one row, where reading the weights is all the time there is, to
// thousands, where multiplying is.
#pragma once

#include <cstdint>

#include "isa.hpp"
#include "packed.hpp"

namespace kelm {

struct Linear {
    const float *x;  // [rows, inputs], rows x_step floats apart
    std::int64_t rows;
    std::int64_t x_step;
    Packed weights;
    const float *bias;  // [outputs] or null
    float *out;         // [rows, outputs], rows out_step floats apart; not x
    std::int64_t out_step;
};

// `isa` is one that the machine has.
void linear(Pool::Turn &turn, Isa isa, const Linear &op);

}  // namespace kelm
