// Lanes: 16 floats, in plain C++. Each unit includes one of the lanes_*.hpp; names have internal linkage.
#pragma once

#include <cstdint>

namespace kelm {
namespace {

struct Lanes {
    float v[16];

    template <typename F>
    static Lanes each(F f) {
        Lanes made;
        for (int i = 0; i < 16; ++i) made.v[i] = f(i);
        return made;
    }
    static Lanes fill(float value) {
        return each([&](int) { return value; });
    }
    static Lanes load(const float *from) {
        return each([&](int i) { return from[i]; });
    }
    void store(float *to) const {
        for (int i = 0; i < 16; ++i) to[i] = v[i];
    }
    // As 16 bfloat16 one after another: round to nearest, ties to even; a NaN stays one.
    void store_bf16(void *to) const {
        for (int i = 0; i < 16; ++i) {
            std::uint32_t bits;
            __builtin_memcpy(&bits, &v[i], 4);
            const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
            const auto half = static_cast<std::uint16_t>(nan ? 0x7fc0u : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
            __builtin_memcpy(static_cast<char *>(to) + 2 * i, &half, 2);
        }
    }
    // As the maxps instruction: the second where they do not compare.
    static Lanes max(Lanes a, Lanes b) {
        return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
    }
    // Of values whose size is below 2^22: ties to even.
    static Lanes nearest(Lanes a) {
        return each([&](int i) {
            const float shifted = a.v[i] + 12582912.0f;
            return shifted - 12582912.0f;
        });
    }
    // Times 2^n, for whole n from -126 to 127.
    Lanes times_two_to(Lanes n) const {
        return each([&](int i) {
            const std::uint32_t bits = static_cast<std::uint32_t>(static_cast<int>(n.v[i]) + 127) << 23;
            float power;
            __builtin_memcpy(&power, &bits, 4);
            return v[i] * power;
        });
    }
    // Where a < b the third, else the fourth.
    static Lanes select_less(Lanes a, Lanes b, Lanes then, Lanes other) {
        return each([&](int i) { return a.v[i] < b.v[i] ? then.v[i] : other.v[i]; });
    }
    float first() const { return v[0]; }
};

inline Lanes operator+(Lanes a, Lanes b) {
    return Lanes::each([&](int i) { return a.v[i] + b.v[i]; });
}
inline Lanes operator-(Lanes a, Lanes b) {
    return Lanes::each([&](int i) { return a.v[i] - b.v[i]; });
}
inline Lanes operator*(Lanes a, Lanes b) {
    return Lanes::each([&](int i) { return a.v[i] * b.v[i]; });
}
inline Lanes operator/(Lanes a, Lanes b) {
    return Lanes::each([&](int i) { return a.v[i] / b.v[i]; });
}

// sum + low halves * low half of `by`, then + high halves * high half: 16 pairs of bfloat16.
inline Lanes dot_pairs(Lanes sum, const std::uint8_t *at, std::uint32_t by) {
    const auto as_float = [](std::uint32_t bits) {
        float value;
        __builtin_memcpy(&value, &bits, 4);
        return value;
    };
    return Lanes::each([&](int i) {
        std::uint32_t pair;
        __builtin_memcpy(&pair, at + 4 * i, 4);
        const float low = sum.v[i] + as_float(pair << 16) * as_float(by << 16);
        return low + as_float(pair & 0xffff0000u) * as_float(by & 0xffff0000u);
    });
}

}  // namespace
}  // namespace kelm

#include "lanes_folds.hpp"
