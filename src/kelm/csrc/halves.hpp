// 16-bit floats in plain C++, for packing: any CPU, every CPU the same.
#pragma once

#include <cstdint>
#include <cstring>

namespace kelm {
namespace {

inline float float_of(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline std::uint32_t bits_of(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline bool finite(float value) { return (bits_of(value) & 0x7f800000u) != 0x7f800000u; }

inline float bf16_to_float(std::uint16_t half) { return float_of(static_cast<std::uint32_t>(half) << 16); }

// To nearest, ties to even; a NaN stays one.
inline std::uint16_t float_to_bf16(float value) {
    const std::uint32_t bits = bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
    return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float f16_to_float(std::uint16_t half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000) << 16;
    const std::uint32_t exponent = half >> 10 & 31, mantissa = half & 0x3ff;
    if (exponent == 0) return float_of(sign | bits_of(static_cast<float>(mantissa) * 0x1p-24f));
    if (exponent == 31) return float_of(sign | 0x7f800000u | mantissa << 13);
    return float_of(sign | (exponent + 112) << 23 | mantissa << 13);
}

constexpr float kLargestF16 = 65504.0f;

// The least fp16 that is not less than `value`, which is in [0, kLargestF16].
inline std::uint16_t f16_at_least(float value) {
    if (value < 0x1p-14f) {
        const float units = value * 0x1p24f;
        const auto whole = static_cast<std::uint16_t>(units);
        return static_cast<std::uint16_t>(whole + (static_cast<float>(whole) < units));
    }
    const std::uint32_t bits = bits_of(value) - (112u << 23);
    return static_cast<std::uint16_t>((bits >> 13) + ((bits & 0x1fff) != 0));
}

}  // namespace
}  // namespace kelm
