// y = x @ W.T (+ bias) for packed weights: from one row, where reading the weights is all the time there is, to
// thousands, where multiplying is.
#pragma once

#include <cstdint>

#include "isa.hpp"
#include "packed.hpp"
#include "row_ops.hpp"

namespace kelm {

// What becomes of a result, bias included, before it is written.
enum class Epilogue : int {
    none = 0,
    add = 1,       // out += it
    activate = 2,  // out = act(it)
    gate = 3,      // out = act(gate) * up: outputs in turns of 16, out has half as many columns
};

struct Linear {
    const float *x;  // [rows, inputs], rows x_step floats apart
    std::int64_t rows;
    std::int64_t x_step;
    Packed weights;
    const float *bias;  // [outputs] or null
    float *out;         // [rows, outputs], rows out_step floats apart; not x
    std::int64_t out_step;
    Epilogue epilogue = Epilogue::none;
    Activation activation = Activation::none;
    std::int64_t columns = 0;  // of out, with an epilogue; at most what the matrix makes
};

// `isa` is one that the machine has.
void linear(Pool::Turn &turn, Isa isa, const Linear &op);

}  // namespace kelm
