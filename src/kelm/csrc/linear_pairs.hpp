// bf16 products (linear_kernels.hpp) in float arithmetic, over Floats as in linear_groups.hpp and
//
//     split(line, even, odd)   the first and the second input of 16 outputs from a line of bf16 pairs
//     round_bf16(Floats)       to the nearest bf16, ties to even, NaNs stay
//     kPairRows, kPairTiles    how many rows and tiles fit into the registers
//
// A panel has, for each block of 32 inputs, [32, rows] floats.
#pragma once

#include "linear_kernels.hpp"

namespace kelm {
namespace {

template <int kR, int kT>
void multiply_pair_rows(const Multiply &op) {
    Floats sum[kR][kT];
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) sum[r][t] = Floats::load(op.sums + r * op.sums_step + t * 16);
    const auto *x = reinterpret_cast<const float *>(op.panel);
    const std::uint8_t *line = op.weights;
    for (std::int64_t left = op.blocks * 16; left > 0; --left, line += 64, x += 2 * kR) {
        Floats even[kT], odd[kT];
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) {
            split(line + t * op.tile_bytes, even[t], odd[t]);
            __builtin_prefetch(line + t * op.tile_bytes + op.ahead);
        }
#pragma GCC unroll 16
        for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
            for (int t = 0; t < kT; ++t) sum[r][t] = fma(even[t], Floats::all(x[r]), sum[r][t]);
#pragma GCC unroll 16
        for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
            for (int t = 0; t < kT; ++t) sum[r][t] = fma(odd[t], Floats::all(x[kR + r]), sum[r][t]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r)
#pragma GCC unroll 4
        for (int t = 0; t < kT; ++t) sum[r][t].store(op.sums + r * op.sums_step + t * 16);
}

template <int kT>
void multiply_pair_tiles(const Multiply &op) {
    if (op.rows == 1) return multiply_pair_rows<1, kT>(op);
    if (op.rows == 2) return multiply_pair_rows<2, kT>(op);
    if (op.rows == 4) return multiply_pair_rows<4, kT>(op);
    if (kPairRows > 8 && op.rows == 8) return multiply_pair_rows<kPairRows < 8 ? kPairRows : 8, kT>(op);
    return multiply_pair_rows<kPairRows, kT>(op);
}

inline void multiply_pairs(const Multiply &op) {
    if (kPairTiles == 1 || op.tiles == 1) return multiply_pair_tiles<1>(op);
    return multiply_pair_tiles<kPairTiles>(op);
}

inline void pack_pair_rows(const float *x, std::int64_t x_step, int rows, int size, std::int64_t inputs,
                           std::uint8_t *panel) {
    auto *to = reinterpret_cast<float *>(panel);
    const std::int64_t padded = (inputs + 31) / 32 * 32;
    alignas(64) float part[16] = {};
    for (int r = 0; r < size; ++r)
        for (std::int64_t k = 0; k < padded; k += 16) {
            const std::int64_t there = r < rows ? inputs - k : 0;
            for (std::int64_t i = 0; i < 16; ++i) part[i] = i < there ? x[r * x_step + k + i] : 0.0f;
            round_bf16(Floats::load(part)).store(part);
            for (std::int64_t i = 0; i < 16; ++i) to[(k + i) * size + r] = part[i];
        }
}

constexpr Kernel pairs_kernel(int chunk_rows, std::int64_t chunk_bytes) {
    return {{1, 2, 4, kPairRows < 8 ? kPairRows : 8, kPairRows},
            kPairTiles,
            chunk_rows,
            chunk_bytes,
            32 * 4,
            pack_pair_rows,
            multiply_pairs};
}

}  // namespace
}  // namespace kelm
