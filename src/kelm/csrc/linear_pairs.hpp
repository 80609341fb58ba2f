// bf16 products (linear_kernels.hpp) in float arithmetic, over Floats as in linear_groups.hpp and
//
//     split(line, even, odd)   the first and the second input of 16 outputs from a line of bf16 pairs
//     round_bf16(Floats)       to the nearest bf16, ties to even, NaNs stay
//     kPairRows, kPairTiles    how many rows and tiles fit into the registers; kOneRowTiles for one row
//
// A panel has, for each block, [rows, 32] floats.
#pragma once

#include "linear_kernels.hpp"

namespace kelm {
namespace {

// Two inputs, one after the other.
template <int kR, int kT, bool kOnce>
inline void add_line(Floats (&sum)[kR][kT], const std::uint8_t *line, const float *x, const Multiply &op) {
    Floats even[kT], odd[kT];
#pragma GCC unroll 4
    for (int t = 0; t < kT; ++t) {
        split(line + t * op.tile_bytes, even[t], odd[t]);
        if (kOnce) __builtin_prefetch(line + t * op.tile_bytes + kAhead);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) sum[r][t] = fma(even[t], Floats::all(x[r * 32]), sum[r][t]);
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) sum[r][t] = fma(odd[t], Floats::all(x[r * 32 + 1]), sum[r][t]);
}

template <int kR, int kT, bool kOnce>
void multiply_pair_rows(const Multiply &op) {
    Floats sum[kR][kT];
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) sum[r][t] = Floats::load(op.sums + r * op.sums_step + t * 16);
    const auto *x = reinterpret_cast<const float *>(op.panel);
    const std::uint8_t *line = op.weights, *next = op.next, *next_end = op.next + 64 * op.next_lines;
    const std::int64_t each = (op.next_lines + op.blocks - 1) / op.blocks;
    for (std::int64_t b = 0; b < op.blocks; ++b, x += 32 * (kR - 1)) {
        if (!kOnce)
            for (std::int64_t i = 0; i < each && next < next_end; ++i, next += 64)
                for (int t = 0; t < kT; ++t) __builtin_prefetch(next + t * op.tile_bytes, 0, 2);
        for (int j = 0; j < 16; ++j, line += 64, x += 2) add_line<kR, kT, kOnce>(sum, line, x, op);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) sum[r][t].store(op.sums + r * op.sums_step + t * 16);
}

template <int kT, bool kOnce>
void multiply_pair_tiles(const Multiply &op) {
    if (op.rows == 1) return multiply_pair_rows<1, kT, kOnce>(op);
    if (op.rows == 2) return multiply_pair_rows<2, kT, kOnce>(op);
    if (op.rows == 4) return multiply_pair_rows<4, kT, kOnce>(op);
    if (kPairRows > 8 && op.rows == 8) return multiply_pair_rows<kPairRows < 8 ? kPairRows : 8, kT, kOnce>(op);
    return multiply_pair_rows<kPairRows, kT, kOnce>(op);
}

inline void multiply_pairs(const Multiply &op) {
    if (op.rows == 1 && op.tiles == kOneRowTiles) return multiply_pair_rows<1, kOneRowTiles, true>(op);
    if (kPairTiles == 1 || op.tiles == 1)
        return op.next ? multiply_pair_tiles<1, false>(op) : multiply_pair_tiles<1, true>(op);
    return op.next ? multiply_pair_tiles<kPairTiles, false>(op) : multiply_pair_tiles<kPairTiles, true>(op);
}

inline void pack_pair_rows(const float *x, std::int64_t x_step, int rows, int size, std::int64_t inputs,
                           std::uint8_t *panel) {
    auto *to = reinterpret_cast<float *>(panel);
    const std::int64_t padded = (inputs + 31) / 32 * 32;
    for (int r = 0; r < size; ++r)
        for (std::int64_t k = 0; k < padded; k += 16) {
            float *half = to + k / 32 * 32 * size + r * 32 + k % 32;
            const std::int64_t there = r < rows ? inputs - k : 0;
            if (there >= 16) {
                round_bf16(Floats::load(x + r * x_step + k)).store(half);
                continue;
            }
            for (std::int64_t i = 0; i < 16; ++i) half[i] = i < there ? x[r * x_step + k + i] : 0.0f;
            round_bf16(Floats::load(half)).store(half);
        }
}

constexpr Kernel pairs_kernel() {
    return {{1, 2, 4, kPairRows < 8 ? kPairRows : 8, kPairRows},
            kPairTiles,
            kOneRowTiles,
            16384,
            32 * 4,
            pack_pair_rows,
            multiply_pairs};
}

}  // namespace
}  // namespace kelm
