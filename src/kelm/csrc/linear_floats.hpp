// bf16 and float32 products (linear_kernels.hpp) in float arithmetic, over Floats as in linear_groups.hpp and
//
//     split(line, even, odd)     the first and the second input of 16 outputs from a line of bf16 pairs
//     round_bf16(Floats)         to the nearest bf16, ties to even, NaNs stay
//     kFloatRows, kFloatTiles    how many rows and tiles fit into the registers; kOneRowTiles for one row
//
// A panel has, for each block, [rows, 32] floats.
#pragma once

#include "linear_kernels.hpp"

namespace kelm {
namespace {

struct Bf16Lines {
    static constexpr int kInputs = 2;  // of a line

    static void load(const std::uint8_t *line, Floats (&inputs)[2]) { split(line, inputs[0], inputs[1]); }
    static Floats round(Floats x) { return round_bf16(x); }
};

struct Float32Lines {
    static constexpr int kInputs = 1;

    static void load(const std::uint8_t *line, Floats (&inputs)[1]) {
        inputs[0] = Floats::load(reinterpret_cast<const float *>(line));
    }
    static Floats round(Floats x) { return x; }
};

constexpr int kFloatsBlock = 32;  // inputs

// The inputs of a line, one after the other.
template <typename Lines, int kR, int kT, bool kOnce>
inline void add_line(Floats (&sum)[kR][kT], const std::uint8_t *line, const float *x, const Multiply &op) {
    Floats weights[kT][Lines::kInputs];
#pragma GCC unroll 4
    for (int t = 0; t < kT; ++t) {
        Lines::load(line + t * op.tile_bytes, weights[t]);
        if (kOnce) __builtin_prefetch(line + t * op.tile_bytes + kAhead);
    }
#pragma GCC unroll 2
    for (int i = 0; i < Lines::kInputs; ++i)
#pragma GCC unroll 16
        for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
            for (int t = 0; t < kT; ++t)
                sum[r][t] = fma(weights[t][i], Floats::all(x[r * kFloatsBlock + i]), sum[r][t]);
}

template <typename Lines, int kR, int kT, bool kOnce>
void multiply_float_rows(const Multiply &op) {
    Floats sum[kR][kT];
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) sum[r][t] = Floats::load(op.sums + r * op.sums_step + t * 16);
    const auto *x = reinterpret_cast<const float *>(op.panel);
    const std::uint8_t *line = op.weights, *next = op.next, *next_end = op.next + 64 * op.next_lines;
    const std::int64_t each = (op.next_lines + op.blocks - 1) / op.blocks;
    for (std::int64_t b = 0; b < op.blocks; ++b, x += kFloatsBlock * (kR - 1)) {
        if (!kOnce)
            for (std::int64_t i = 0; i < each && next < next_end; ++i, next += 64)
                for (int t = 0; t < kT; ++t) __builtin_prefetch(next + t * op.tile_bytes, 0, 2);
        for (int j = 0; j < kFloatsBlock / Lines::kInputs; ++j, line += 64, x += Lines::kInputs)
            add_line<Lines, kR, kT, kOnce>(sum, line, x, op);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) sum[r][t].store(op.sums + r * op.sums_step + t * 16);
}

template <typename Lines, int kT, bool kOnce>
void multiply_float_tiles(const Multiply &op) {
    if (op.rows == 1) return multiply_float_rows<Lines, 1, kT, kOnce>(op);
    if (op.rows == 2) return multiply_float_rows<Lines, 2, kT, kOnce>(op);
    if (op.rows == 4) return multiply_float_rows<Lines, 4, kT, kOnce>(op);
    if (kFloatRows > 8 && op.rows == 8) return multiply_float_rows<Lines, kFloatRows < 8 ? kFloatRows : 8, kT, kOnce>(op);
    return multiply_float_rows<Lines, kFloatRows, kT, kOnce>(op);
}

template <typename Lines>
void multiply_floats(const Multiply &op) {
    if (op.rows == 1 && op.tiles == kOneRowTiles) return multiply_float_rows<Lines, 1, kOneRowTiles, true>(op);
    if (kFloatTiles == 1 || op.tiles == 1)
        return op.next ? multiply_float_tiles<Lines, 1, false>(op) : multiply_float_tiles<Lines, 1, true>(op);
    return op.next ? multiply_float_tiles<Lines, kFloatTiles, false>(op) : multiply_float_tiles<Lines, kFloatTiles, true>(op);
}

template <typename Lines>
void pack_float_rows(const float *x, std::int64_t x_step, int rows, int size, std::int64_t inputs,
                     std::uint8_t *panel) {
    auto *to = reinterpret_cast<float *>(panel);
    const std::int64_t padded = (inputs + kFloatsBlock - 1) / kFloatsBlock * kFloatsBlock;
    for (int r = 0; r < size; ++r)
        for (std::int64_t k = 0; k < padded; k += 16) {
            float *half = to + k / kFloatsBlock * kFloatsBlock * size + r * kFloatsBlock + k % kFloatsBlock;
            const std::int64_t there = r < rows ? inputs - k : 0;
            if (there >= 16) {
                Lines::round(Floats::load(x + r * x_step + k)).store(half);
                continue;
            }
            for (std::int64_t i = 0; i < 16; ++i) half[i] = i < there ? x[r * x_step + k + i] : 0.0f;
            Lines::round(Floats::load(half)).store(half);
        }
}

template <typename Lines>
constexpr Kernel floats_kernel() {
    return {{1, 2, 4, kFloatRows < 8 ? kFloatRows : 8, kFloatRows},
            kFloatTiles,
            kOneRowTiles,
            16384,
            kFloatsBlock * 4,
            pack_float_rows<Lines>,
            multiply_floats<Lines>};
}

}  // namespace
}  // namespace kelm
