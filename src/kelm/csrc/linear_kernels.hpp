// What an instruction set's unit offers for matrix products over packed weights (packed.hpp), and the one arithmetic
// that all of them keep, so that a row has the same bits alone or among others, on any number of threads and on any
// instruction set.
//
// int8 and int4. Activations go in groups of 32 inputs, as the weights do: a = the largest |x|, and
//
//     q = round_to_even(x * (127 / a)),   s = a * (1 / 127)      a >= 2^-100 and finite
//     q = 0,                              s = 0                  a smaller
//     q = 0,                              s = nan                a not finite: the row's results are all nan
//
//     y[o] = fma(float(sum of w[o] * q), d[o] * s, y[o])         group after group, from y = 0
//
// The sum is exact in int32 (and below 2^24, so in float too), in whatever order. d is the weights' scale.
//
// bf16. Activations are rounded to bf16 (to even), and y[o] = fma(w[o][k], x[k], y[o]) for rising k, from y = 0. A
// product of two bf16 is exact in float. On AMX the tiles' own arithmetic is used instead, at every row count.
//
// float32. The same without rounding the activations.
//
// Inputs are padded with zeros to whole blocks, and take part. Denormals count as zero (flush.hpp).
#pragma once

#include <cstdint>

namespace kelm {

// One step of a product: `panel` (rows that a kernel packed) times `tiles` neighbouring tiles, over `blocks` blocks.
struct Multiply {
    const std::uint8_t *weights;  // the first block of the first tile
    std::int64_t tile_bytes;      // from a tile to the next
    int tiles;                    // 1, or what the kernel says
    const std::uint8_t *panel;
    int rows;  // one of the kernel's sizes
    std::int64_t blocks;
    float *sums;             // [rows, 16 * tiles], added to
    std::int64_t sums_step;  // floats from a row to the next
    const std::uint8_t *next;  // the weights wanted after this step, of its first tile; null: its own, a little ahead
    std::int64_t next_lines;   // of each tile, to prefetch from there
};

// With rows for one panel only, weights are read once and memory sets the pace: prefetch a few lines' time ahead.
constexpr std::int64_t kAhead = 2048;

struct Kernel {
    static constexpr int kSizes = 5;

    int sizes[kSizes];         // rows that a panel can have, rising, the last repeated; a panel is padded up to one
    int tiles;                 // of a step
    int one_row_tiles;         // of a step for a panel of one row; 1 is good for every panel
    std::int64_t chunk_bytes;  // of a tile, that stay in the cache while panels pass
    std::int64_t row_bytes;    // of a panel, for each row and block of inputs
    void (*pack)(const float *x, std::int64_t x_step, int rows, int size, std::int64_t inputs, std::uint8_t *panel);
    void (*multiply)(const Multiply &step);
};

struct Kernels {
    Kernel bf16, int8, int4, float32;  // as Format numbers them
};

extern const Kernels portable_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx_vnni_kernels;
extern const Kernels avx512_kernels;
extern const Kernels avx512_vnni_kernels;
extern const Kernels amx_kernels;
extern const Kernels amx_emulated_kernels;
#endif

}  // namespace kelm
