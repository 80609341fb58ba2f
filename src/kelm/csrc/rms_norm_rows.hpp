// The loop of rms_norm over a type Lanes of 16 floats, which each instruction set's unit defines before including this.
//
// Everything here has internal linkage and calls no inline library function: a shared inline copy compiled with
// AVX-512 could be the one that the linker keeps for the portable unit, and would kill an older CPU.
#pragma once

#include "rms_norm.hpp"

namespace kelm {
namespace {

constexpr std::int64_t kLanes = 16;

// The last hidden % 16 floats, filled up with zeros: adding +0 changes no partial sum.
struct Tail {
    alignas(64) float value[kLanes] = {};

    Tail(const float *from, std::int64_t count) {
        for (std::int64_t i = 0; i < count; ++i) value[i] = from[i];
    }
};

float inverse_rms(const float *x, std::int64_t hidden, float eps) {
    const std::int64_t whole = hidden - hidden % kLanes;
    Lanes sum = Lanes::fill(0.0f);
    for (std::int64_t i = 0; i < whole; i += kLanes) {
        const Lanes v = Lanes::load(x + i);
        sum = sum + v * v;
    }
    if (whole != hidden) {
        const Lanes v = Lanes::load(Tail(x + whole, hidden - whole).value);
        sum = sum + v * v;
    }
    alignas(64) float lane[kLanes];
    sum.store(lane);
    for (std::int64_t half = kLanes / 2; half > 0; half /= 2)
        for (std::int64_t l = 0; l < half; ++l) lane[l] += lane[l + half];
    return 1.0f / __builtin_sqrtf(lane[0] / static_cast<float>(hidden) + eps);
}

Lanes scaled(Lanes x, Lanes weight, Lanes r, bool unit_offset) {
    return (x * r) * (unit_offset ? Lanes::fill(1.0f) + weight : weight);
}

void rms_norm_rows(const RmsNorm &op) {
    const std::int64_t whole = op.hidden - op.hidden % kLanes;
    const std::int64_t rest = op.hidden - whole;
    for (std::int64_t row = 0; row < op.rows; ++row) {
        const float *x = op.x + row * op.x_stride;
        float *out = op.out + row * op.out_stride;
        const Lanes r = Lanes::fill(inverse_rms(x, op.hidden, op.eps));
        for (std::int64_t i = 0; i < whole; i += kLanes)
            scaled(Lanes::load(x + i), Lanes::load(op.weight + i), r, op.unit_offset).store(out + i);
        if (rest == 0) continue;
        Tail tail(x + whole, rest);
        const Tail weight(op.weight + whole, rest);
        scaled(Lanes::load(tail.value), Lanes::load(weight.value), r, op.unit_offset).store(tail.value);
        for (std::int64_t i = 0; i < rest; ++i) out[whole + i] = tail.value[i];
    }
}

}  // namespace
}  // namespace kelm
