// int8 and int4 products (linear_kernels.hpp) over what an instruction set's unit defines before including this:
//
//     Floats             16 floats: zero, all, load, store, half (from fp16), *, fma(a, b, c) = a * b + c, one rounding
//     Ints               16 int32: all, to_floats
//     Bytes              a line, 64 unsigned bytes: load, low_halves, high_halves
//     dot(sum, w, x)     Ints += four inputs of 16 outputs times a row's four activations (kWords words)
//     peak_bits(a, b)    the largest of 32 floats' bits without their signs
//     quantize(a, b, r, q)   round_to_even(32 floats * r) as bytes into q; returns their sum
//     kWords                 words of four activations
//     kRows, kTiles          how many rows and tiles fit into the registers; kOneRowTiles for one row
//
// A panel has, for each block, [rows, 16] of four activations, then [2 groups, rows] scales, then [2, rows] starts:
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
template <typename Lines, int kR, int kT, bool kOnce>
inline void add_group(Floats (&sum)[kR][kT], const std::uint8_t *block, const std::int32_t *panel, int group,
                      const Multiply &op) {
    const std::uint8_t *lines = block + 64 + group * Lines::kGroupBytes;
    const std::int32_t *fours = panel + group * 8 * kWords;
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
        if (kOnce && (k % 2 == 0 || Lines::kGroupBytes == 512))
#pragma GCC unroll 4
            for (int t = 0; t < kT; ++t)
                __builtin_prefetch(lines + t * op.tile_bytes + kAhead + k * Lines::kGroupBytes / 8);
#pragma GCC unroll 16
        for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
            for (int t = 0; t < kT; ++t) dot(exact[r][t], weights[t], fours + (r * kFours + k) * kWords);
    }
#pragma GCC unroll 4
    for (int t = 0; t < kT; ++t) {
        const Floats weight_scale = Floats::half(block + t * op.tile_bytes + group * 32);
#pragma GCC unroll 16
        for (int r = 0; r < kR; ++r)
            sum[r][t] = fma(exact[r][t].to_floats(), weight_scale * Floats::all(scales[r]), sum[r][t]);
    }
}

template <typename Lines, int kR, int kT, bool kOnce>
void multiply_rows(const Multiply &op) {
    Floats sum[kR][kT];
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) sum[r][t] = Floats::load(op.sums + r * op.sums_step + t * 16);
    const auto *panel = reinterpret_cast<const std::int32_t *>(op.panel);
    const std::uint8_t *block = op.weights, *next = op.next, *next_end = op.next + 64 * op.next_lines;
    const std::int64_t each = (op.next_lines + op.blocks - 1) / op.blocks;
    for (std::int64_t b = 0; b < op.blocks; ++b, block += kLinesBlock<Lines>, panel += kPanelWords * kR) {
        if (kOnce)
            for (int t = 0; t < kT; ++t) __builtin_prefetch(block + t * op.tile_bytes + kAhead);
        else
            for (std::int64_t i = 0; i < each && next < next_end; ++i, next += 64)
                for (int t = 0; t < kT; ++t) __builtin_prefetch(next + t * op.tile_bytes, 0, 2);
        add_group<Lines, kR, kT, kOnce>(sum, block, panel, 0, op);
        add_group<Lines, kR, kT, kOnce>(sum, block, panel, 1, op);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) sum[r][t].store(op.sums + r * op.sums_step + t * 16);
}

template <typename Lines, int kT, bool kOnce>
void multiply_tiles(const Multiply &op) {
    if (op.rows == 1) return multiply_rows<Lines, 1, kT, kOnce>(op);
    if (op.rows == 2) return multiply_rows<Lines, 2, kT, kOnce>(op);
    if (kRows > 4 && op.rows == 4) return multiply_rows<Lines, kRows < 4 ? kRows : 4, kT, kOnce>(op);
    return multiply_rows<Lines, kRows, kT, kOnce>(op);
}

template <typename Lines>
void multiply_groups(const Multiply &op) {
    if (op.rows == 1 && op.tiles == kOneRowTiles) return multiply_rows<Lines, 1, kOneRowTiles, true>(op);
    if (kTiles == 1 || op.tiles == 1)
        return op.next ? multiply_tiles<Lines, 1, false>(op) : multiply_tiles<Lines, 1, true>(op);
    return op.next ? multiply_tiles<Lines, kTiles, false>(op) : multiply_tiles<Lines, kTiles, true>(op);
}

struct Group {  // 32 activations of one row
    Floats low, high;

    static Group load(const float *from, std::int64_t count) {
        if (count >= 32) return {Floats::load(from), Floats::load(from + 16)};
        alignas(64) float value[32];
        for (std::int64_t i = 0; i < 32; ++i) value[i] = i < count ? from[i] : 0.0f;
        return {Floats::load(value), Floats::load(value + 16)};
    }

    // q * scale is the group, near enough; `start` is what sums over weights that are too large by `zero` begin with.
    void quantize_to(std::int8_t *q, float &scale, std::int32_t &start, std::int32_t zero) const {
        constexpr std::uint32_t kInfinity = 0x7f800000u, kLeast = 0x0d800000u;  // 2^-100
        const std::uint32_t bits = peak_bits(low, high);
        float peak;
        __builtin_memcpy(&peak, &bits, sizeof peak);
        if (bits >= kLeast && bits < kInfinity) {
            scale = peak * (1.0f / 127.0f);
            start = -zero * quantize(low, high, 127.0f / peak, q);
        } else {
            scale = bits < kLeast ? 0.0f : __builtin_nanf("");
            start = 0;
            for (int i = 0; i < 32; ++i) q[i] = 0;
        }
    }
};

// Eight fours as dot() takes them in two words: the even and the odd ones of each as pairs of 16 bits.
inline void widen(const std::int8_t *q, std::int16_t *to) {
    for (int k = 0; k < 32; k += 4) {
        to[k] = q[k];
        to[k + 1] = q[k + 2];
        to[k + 2] = q[k + 1];
        to[k + 3] = q[k + 3];
    }
}

template <typename Lines>
void pack_rows(const float *x, std::int64_t x_step, int rows, int size, std::int64_t inputs, std::uint8_t *panel) {
    const std::int64_t blocks = (inputs + 63) / 64;
    for (int r = 0; r < size; ++r) {
        auto *block = reinterpret_cast<std::int32_t *>(panel);
        for (std::int64_t b = 0; b < blocks; ++b, block += kPanelWords * size)
            for (int g = 0; g < 2; ++g) {
                const std::int64_t first = b * 64 + g * 32;
                const Group group = Group::load(x + r * x_step + first, r < rows ? inputs - first : 0);
                std::int32_t *fours = block + (r * kFours + g * 8) * kWords;
                auto &scale = *reinterpret_cast<float *>(block + (kFours * kWords + g) * size + r);
                auto &start = block[(kFours * kWords + 2 + g) * size + r];
                if (kWords == 1) {
                    group.quantize_to(reinterpret_cast<std::int8_t *>(fours), scale, start, Lines::kZero);
                } else {
                    std::int8_t q[32];
                    group.quantize_to(q, scale, start, Lines::kZero);
                    widen(q, reinterpret_cast<std::int16_t *>(fours));
                }
            }
    }
}

template <typename Lines>
constexpr Kernel groups_kernel() {
    return {{1, 2, kRows < 4 ? kRows : 4, kRows, kRows},
            kTiles,
            kOneRowTiles,
            16384,
            kPanelWords * 4,
            pack_rows<Lines>,
            multiply_groups<Lines>};
}

}  // namespace
}  // namespace kelm
