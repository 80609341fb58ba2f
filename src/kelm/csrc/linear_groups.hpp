// int8 and int4 products (linear_kernels.hpp) over what an instruction set's unit defines before including this:
//
//     Floats             16 floats: zero, all, load, store, half (from fp16), *, fma(a, b, c) = a * b + c, one rounding
//     Ints               16 int32: all, to_floats
//     Bytes              a line, 64 unsigned bytes: load, low_halves, high_halves
//     dot(sum, w, x)     Ints += four inputs of 16 outputs times a row's four activations (kWords words)
//     peak_bits(a, b)    the largest of 32 floats' bits without their signs
//     quantize(a, b, r, q)   round_to_even(32 floats * r) as bytes into q; returns their sum
//     kWords, kRows, kTiles  words of four activations; how many rows and tiles fit into the registers
//
// A panel has, for each block, [2 groups, 8, rows] of four activations, then [2, rows] scales, then [2, rows] starts:
// -zero * sum(q), so that sums over unsigned weights come out as if those were signed.
//
// Everything here has internal linkage and calls no library function, for the reason in rms_norm_rows.hpp.
#pragma once

#include "linear_kernels.hpp"

namespace kelm {
namespace {

struct Int8Lines {
    static constexpr std::int64_t kGroupBytes = 512;
    static constexpr int kZero = 128;

    static Bytes four(const std::uint8_t *group, int k) { return Bytes::load(group + k * 64); }
};

struct Int4Lines {
    static constexpr std::int64_t kGroupBytes = 256;
    static constexpr int kZero = 8;

    static Bytes four(const std::uint8_t *group, int k) {
        const Bytes line = Bytes::load(group + k / 2 * 64);
        return k % 2 == 0 ? line.low_halves() : line.high_halves();
    }
};

constexpr std::int64_t kFours = 16;                           // of a block
constexpr std::int64_t kPanelWords = kFours * kWords + 2 + 2;  // of a row and block

template <typename Lines>
constexpr std::int64_t kLinesBlock = 64 + 2 * Lines::kGroupBytes;

// One group of 32 inputs: exact sums, then one fma into `sum`.
template <typename Lines, int kR, int kT>
inline void add_group(Floats (&sum)[kR][kT], const std::uint8_t *block, const std::int32_t *panel, int group,
                      const Multiply &op) {
    const std::uint8_t *lines = block + 64 + group * Lines::kGroupBytes;
    const std::int32_t *four = panel + group * 8 * kR * kWords;
    const std::int32_t *starts = panel + (kFours * kWords + 2 + group) * kR;
    const float *scales = reinterpret_cast<const float *>(panel + (kFours * kWords + group) * kR);
    Ints exact[kR][kT];
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) exact[r][t] = Ints::all(starts[r]);
#pragma GCC unroll 8
    for (int k = 0; k < 8; ++k) {
        Bytes weights[kT];
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) weights[t] = Lines::four(lines + t * op.tile_bytes, k);
        if (k % 2 == 0 || Lines::kGroupBytes == 512)
#pragma GCC unroll 4
            for (int t = 0; t < kT; ++t)
                __builtin_prefetch(lines + t * op.tile_bytes + op.ahead + k * Lines::kGroupBytes / 8);
#pragma GCC unroll 16
        for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
            for (int t = 0; t < kT; ++t) dot(exact[r][t], weights[t], four + (k * kR + r) * kWords);
    }
#pragma GCC unroll 4
    for (int t = 0; t < kT; ++t) {
        const Floats weight_scale = Floats::half(block + t * op.tile_bytes + group * 32);
#pragma GCC unroll 16
        for (int r = 0; r < kR; ++r)
            sum[r][t] = fma(exact[r][t].to_floats(), weight_scale * Floats::all(scales[r]), sum[r][t]);
    }
}

template <typename Lines, int kR, int kT>
void multiply_rows(const Multiply &op) {
    Floats sum[kR][kT];
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) sum[r][t] = Floats::load(op.sums + r * op.sums_step + t * 16);
    const auto *panel = reinterpret_cast<const std::int32_t *>(op.panel);
    const std::uint8_t *block = op.weights;
    for (std::int64_t b = 0; b < op.blocks; ++b, block += kLinesBlock<Lines>, panel += kPanelWords * kR) {
        __builtin_prefetch(block + op.ahead);
        if (kT > 1) __builtin_prefetch(block + (kT - 1) * op.tile_bytes + op.ahead);
        add_group<Lines, kR, kT>(sum, block, panel, 0, op);
        add_group<Lines, kR, kT>(sum, block, panel, 1, op);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) sum[r][t].store(op.sums + r * op.sums_step + t * 16);
}

template <typename Lines, int kT>
void multiply_tiles(const Multiply &op) {
    if (op.rows == 1) return multiply_rows<Lines, 1, kT>(op);
    if (op.rows == 2) return multiply_rows<Lines, 2, kT>(op);
    if (kRows > 4 && op.rows == 4) return multiply_rows<Lines, kRows < 4 ? kRows : 4, kT>(op);
    return multiply_rows<Lines, kRows, kT>(op);
}

template <typename Lines>
void multiply_groups(const Multiply &op) {
    if (kTiles == 1 || op.tiles == 1) return multiply_tiles<Lines, 1>(op);
    return multiply_tiles<Lines, kTiles>(op);
}

struct Activations {  // 32 of one row as they go into a panel
    alignas(64) float value[32] = {};
    alignas(32) std::int8_t q[32];
    float scale;
    std::int32_t sum;

    void set(const float *from, std::int64_t count) {
        if (count >= 32) return set(Floats::load(from), Floats::load(from + 16));
        for (std::int64_t i = 0; i < 32; ++i) value[i] = i < count ? from[i] : 0.0f;
        set(Floats::load(value), Floats::load(value + 16));
    }

    void set(Floats a, Floats b) {
        constexpr std::uint32_t kInfinity = 0x7f800000u, kLeast = 0x0d800000u;  // 2^-100
        const std::uint32_t bits = peak_bits(a, b);
        float peak;
        __builtin_memcpy(&peak, &bits, sizeof peak);
        const bool usable = bits >= kLeast && bits < kInfinity;
        scale = usable ? peak * (1.0f / 127.0f) : bits < kLeast ? 0.0f : __builtin_nanf("");
        sum = usable ? quantize(a, b, 127.0f / peak, q) : 0;
        if (!usable)
            for (std::int8_t &each : q) each = 0;
    }
};

// Four activations as dot() takes them: bytes, or the even and the odd ones as pairs of 16 bits.
inline void put_four(const std::int8_t *q, std::int32_t *to) {
    if (kWords == 1) {
        __builtin_memcpy(to, q, 4);
    } else {
        to[0] = static_cast<std::int32_t>(static_cast<std::uint32_t>(q[2]) << 16 | static_cast<std::uint16_t>(q[0]));
        to[kWords - 1] =
            static_cast<std::int32_t>(static_cast<std::uint32_t>(q[3]) << 16 | static_cast<std::uint16_t>(q[1]));
    }
}

template <typename Lines>
void pack_rows(const float *x, std::int64_t x_step, int rows, int size, std::int64_t inputs, std::uint8_t *panel) {
    const std::int64_t groups = (inputs + 63) / 64 * 2;
    Activations part;
    for (int r = 0; r < size; ++r)
        for (std::int64_t g = 0; g < groups; ++g) {
            auto *block = reinterpret_cast<std::int32_t *>(panel) + g / 2 * kPanelWords * size;
            part.set(x + r * x_step + g * 32, r < rows ? inputs - g * 32 : 0);
            for (int k = 0; k < 8; ++k) put_four(part.q + 4 * k, block + ((g % 2 * 8 + k) * size + r) * kWords);
            __builtin_memcpy(block + (kFours * kWords + g % 2) * size + r, &part.scale, 4);
            block[(kFours * kWords + 2 + g % 2) * size + r] = -Lines::kZero * part.sum;
        }
}

template <typename Lines>
constexpr Kernel groups_kernel(int chunk_rows, std::int64_t chunk_bytes) {
    return {{1, 2, kRows < 4 ? kRows : 4, kRows, kRows},
            kTiles,
            chunk_rows,
            chunk_bytes,
            kPanelWords * 4,
            pack_rows<Lines>,
            multiply_groups<Lines>};
}

}  // namespace
}  // namespace kelm
