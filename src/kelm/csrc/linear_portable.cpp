// Any CPU: 16 lanes as plain arrays, which the compiler may vectorise with what the baseline has.
#include <cstdint>
#include <cstring>

#include "halves.hpp"

namespace kelm {
namespace {

struct Floats {
    float v[16];

    static Floats all(float value) {
        Floats r;
        for (float &lane : r.v) lane = value;
        return r;
    }
    static Floats load(const float *from) {
        Floats r;
        for (int l = 0; l < 16; ++l) r.v[l] = from[l];
        return r;
    }
    static Floats half(const std::uint8_t *from) {
        Floats r;
        for (int l = 0; l < 16; ++l) r.v[l] = f16_to_float(reinterpret_cast<const std::uint16_t *>(from)[l]);
        return r;
    }
    void store(float *to) const {
        for (int l = 0; l < 16; ++l) to[l] = v[l];
    }
};

inline Floats operator*(const Floats &a, const Floats &b) {
    Floats r;
    for (int l = 0; l < 16; ++l) r.v[l] = a.v[l] * b.v[l];
    return r;
}

#if defined(__FP_FAST_FMAF)
inline float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
// The C library's fmaf takes 150 ns here. The product of two floats is exact in double; the sum is rounded to odd
// there, so that the rounding to float can't see it (Boldo and Melquiond 2008).
inline float fused(float a, float b, float c) {
    const double product = static_cast<double>(a) * b, sum = product + c;
    const double back = sum - product, error = (product - (sum - back)) + (c - back);
    std::uint64_t bits;
    std::memcpy(&bits, &sum, sizeof bits);
    const bool inexact = error > 0.0 || error < 0.0, even = (bits & 1) == 0;
    const bool outwards = (error > 0.0) == (sum > 0.0);
    if (inexact && even) bits += outwards ? 1 : ~std::uint64_t{0};
    double odd;
    std::memcpy(&odd, &bits, sizeof odd);
    return static_cast<float>(odd);
}
#endif

inline Floats fma(const Floats &a, const Floats &b, const Floats &c) {
    Floats r;
    for (int l = 0; l < 16; ++l) r.v[l] = fused(a.v[l], b.v[l], c.v[l]);
    return r;
}

struct Ints {
    std::int32_t v[16];

    static Ints all(std::int32_t value) {
        Ints r;
        for (std::int32_t &lane : r.v) lane = value;
        return r;
    }
    Floats to_floats() const {
        Floats r;
        for (int l = 0; l < 16; ++l) r.v[l] = static_cast<float>(v[l]);
        return r;
    }
};

struct Bytes {
    std::uint8_t v[64];

    static Bytes load(const std::uint8_t *from) {
        Bytes r;
        for (int i = 0; i < 64; ++i) r.v[i] = from[i];
        return r;
    }
    Bytes low_halves() const {
        Bytes r;
        for (int i = 0; i < 64; ++i) r.v[i] = v[i] & 15;
        return r;
    }
    Bytes high_halves() const {
        Bytes r;
        for (int i = 0; i < 64; ++i) r.v[i] = v[i] >> 4;
        return r;
    }
};

constexpr int kWords = 1;

inline void dot(Ints &sum, const Bytes &weights, const std::int32_t *x) {
    std::int8_t four[4];
    __builtin_memcpy(four, x, 4);
    for (int l = 0; l < 16; ++l)
        for (int i = 0; i < 4; ++i) sum.v[l] += weights.v[4 * l + i] * four[i];
}

inline std::uint32_t peak_bits(const Floats &a, const Floats &b) {
    std::uint32_t most = 0;
    for (int l = 0; l < 32; ++l) {
        const std::uint32_t bits = bits_of(l < 16 ? a.v[l] : b.v[l - 16]) & 0x7fffffffu;
        if (bits > most) most = bits;
    }
    return most;
}

inline std::int32_t quantize(const Floats &a, const Floats &b, float by, std::int8_t *q) {
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to an integer, ties to even
    std::int32_t sum = 0;
    for (int l = 0; l < 32; ++l) {
        q[l] = static_cast<std::int8_t>(((l < 16 ? a.v[l] : b.v[l - 16]) * by + kRound) - kRound);
        sum += q[l];
    }
    return sum;
}

inline void split(const std::uint8_t *line, Floats &even, Floats &odd) {
    const auto *pairs = reinterpret_cast<const std::uint16_t *>(line);
    for (int l = 0; l < 16; ++l) {
        even.v[l] = bf16_to_float(pairs[2 * l]);
        odd.v[l] = bf16_to_float(pairs[2 * l + 1]);
    }
}

inline Floats round_bf16(const Floats &x) {
    Floats r;
    for (int l = 0; l < 16; ++l) r.v[l] = bf16_to_float(float_to_bf16(x.v[l]));
    return r;
}

constexpr int kRows = 2, kTiles = 1, kFloatRows = 6, kFloatTiles = 1, kOneRowTiles = 1;

}  // namespace
}  // namespace kelm

#include "linear_groups.hpp"
#include "linear_floats.hpp"

const kelm::Kernels kelm::portable_kernels = {floats_kernel<Bf16Lines>(), groups_kernel<Int8Lines>(), groups_kernel<Int4Lines>(),
                                          floats_kernel<Float32Lines>()};
