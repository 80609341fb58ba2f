// The ops of row_ops.hpp in plain C++, for each instruction set's unit to compile as it can. Internal linkage throughout,
// for the reason in rms_norm_rows.hpp; functions of the C library are called, never inlined.
#pragma once

#include <math.h>

#include "row_ops.hpp"

namespace kelm {
namespace {

constexpr std::int64_t kLanes = 16;

// exp as in Cephes: within 2 ulp, 0 below -87, no branch.
inline float exp_of(float x) {
    const float clamped = x > 88.0f ? 88.0f : x < -87.0f ? -87.0f : x;
    const float shifted = clamped * 1.44269504088896341f + 12582912.0f;  // 1.5 * 2^23: rounds to a whole number
    const float n = shifted - 12582912.0f;
    float r = clamped - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    const std::int32_t bits = (static_cast<std::int32_t>(n) + 127) << 23;
    float scale;
    __builtin_memcpy(&scale, &bits, sizeof scale);
    const float made = (p * (r * r) + r + 1.0f) * scale;
    return x != x ? x : x < -87.0f ? 0.0f : x > 88.7f ? __builtin_inff() : made;
}

inline float tanh_of(float x) {
    const float size = x < 0.0f ? -x : x, e = exp_of(-2.0f * size), t = (1.0f - e) / (1.0f + e);
    return x < 0.0f ? -t : t;
}

inline float silu(float x) { return x / (1.0f + exp_of(-x)); }
inline float gelu(float x) { return x * 0.5f * (1.0f + erff(x * 0.70710678118654752f)); }
inline float gelu_tanh(float x) { return 0.5f * x * (1.0f + tanh_of(0.7978845608028654f * (x + 0.044715f * (x * x * x)))); }
inline float relu(float x) { return x > 0.0f || x != x ? x : 0.0f; }
inline float same(float x) { return x; }

// Calls `with` with the function that `kind` names, so that the loop around it knows it.
template <typename With>
void of_kind(Activation kind, const With &with) {
    switch (kind) {
        case Activation::none: return with([](float x) { return same(x); });
        case Activation::silu: return with([](float x) { return silu(x); });
        case Activation::gelu: return with([](float x) { return gelu(x); });
        case Activation::gelu_tanh: return with([](float x) { return gelu_tanh(x); });
        case Activation::relu: return with([](float x) { return relu(x); });
        case Activation::tanh: return with([](float x) { return tanh_of(x); });
    }
}

// Lane l adds x[l], x[l + 16], ...; then lanes fold in halves: the order of rms_norm.hpp.
template <typename Of>
float sum_of(std::int64_t width, const Of &of) {
    float lane[kLanes] = {};
    std::int64_t i = 0;
    for (; i + kLanes <= width; i += kLanes)
        for (std::int64_t l = 0; l < kLanes; ++l) lane[l] += of(i + l);
    for (std::int64_t l = 0; i + l < width; ++l) lane[l] += of(i + l);
    for (std::int64_t half = kLanes / 2; half > 0; half /= 2)
        for (std::int64_t l = 0; l < half; ++l) lane[l] += lane[l + half];
    return lane[0];
}

void layer_norm_row(const float *x, const float *weight, const float *bias, std::int64_t width, float eps, float *out) {
    const auto count = static_cast<float>(width);
    const float mean = sum_of(width, [&](std::int64_t i) { return x[i]; }) / count;
    const float spread = sum_of(width, [&](std::int64_t i) { return (x[i] - mean) * (x[i] - mean); }) / count;
    const float r = 1.0f / __builtin_sqrtf(spread + eps);
    for (std::int64_t i = 0; i < width; ++i) out[i] = (x[i] - mean) * r * weight[i] + bias[i];
}

void angles_row(std::int64_t position, const float *frequencies, std::int64_t pairs, float factor, float *out) {
    for (std::int64_t i = 0; i < pairs; ++i) {
        const float angle = static_cast<float>(position) * frequencies[i];
        out[i] = cosf(angle) * factor;
        out[pairs + i] = sinf(angle) * factor;
    }
}

void rotate_row(float *x, const float *angles, std::int64_t heads, std::int64_t width) {
    const std::int64_t pairs = width / 2;
    for (std::int64_t head = 0; head < heads; ++head, x += width)
        for (std::int64_t i = 0; i < pairs; ++i) {
            const float left = x[i], right = x[pairs + i], cos = angles[i], sin = angles[pairs + i];
            x[i] = left * cos - right * sin;
            x[pairs + i] = right * cos + left * sin;
        }
}

void activate_row(const float *x, std::int64_t width, Activation kind, float *out) {
    of_kind(kind, [&](auto act) {
        for (std::int64_t i = 0; i < width; ++i) out[i] = act(x[i]);
    });
}

void gate_row(const float *x, std::int64_t width, Activation kind, float *out) {
    of_kind(kind, [&](auto act) {
        for (std::int64_t i = 0; i < width; i += kLanes) {
            const std::int64_t count = width - i < kLanes ? width - i : kLanes;
            for (std::int64_t l = 0; l < count; ++l) out[i + l] = act(x[2 * i + l]) * x[2 * i + kLanes + l];
        }
    });
}

void add_row(const float *x, std::int64_t width, float *out) {
    for (std::int64_t i = 0; i < width; ++i) out[i] += x[i];
}

void low_rank_row(const float *x, std::int64_t inputs, const float *a, const float *b, std::int64_t rank,
                  std::int64_t width, float *out) {
    for (std::int64_t r = 0; r < rank; ++r, a += inputs, b += width) {
        const float middle = sum_of(inputs, [&](std::int64_t i) { return x[i] * a[i]; });
        for (std::int64_t o = 0; o < width; ++o) out[o] += middle * b[o];
    }
}

void soft_cap_row(float *x, std::int64_t width, float cap) {
    for (std::int64_t i = 0; i < width; ++i) x[i] = tanh_of(x[i] / cap) * cap;
}

constexpr RowOps kRowOps{layer_norm_row, angles_row,   rotate_row,   activate_row,
                         gate_row,       add_row,      low_rank_row, soft_cap_row};

}  // namespace
}  // namespace kelm
