// A weight matrix [outputs, inputs] as the kernels read it. Sixteen outputs are a tile; a tile is a run of blocks along
// the inputs; a block is whole lines of 64 bytes, and all sizes are multiples of that, so a matrix that starts on a
// line has every line where one load takes it. Both sides are padded with zeros.
//
//     bf16   block of 32 inputs, 16 lines        line j: output 0 inputs 2j, 2j+1 | output 1 ... | output 15   (bf16)
//     int8   block of 64 inputs, 1 + 16 lines    line 0: scales, group 0 of outputs 0 ... 15 | group 1        (fp16)
//                                                line 1+j: output 0 inputs 4j ... 4j+3 | ... | output 15    (q + 128)
//     int4   block of 64 inputs, 1 + 8 lines     line 0: scales as in int8
//                                                line 1+j: output 0, four bytes | ... | output 15            (q + 8)
//                                                byte i: input 8j+i in the low half, 8j+4+i in the high one
//
// A group is 32 inputs of one output; weight = q * scale. The lines are what vpdpbusd, vpdpwssd's relatives and AMX
// tiles (16 rows of 64 bytes; 8 for a group) take without a shuffle. Unsigned, so that the instructions' signed side is
// left to activations. Bits for a weight: 16, 8.5 and 4.5, as in GGUF's BF16, Q8_0 and Q4_0, whose values and scales
// fit in here unchanged.
#pragma once

#include <cstdint>

#include "pool.hpp"

namespace kelm {

enum class Format : int { bf16 = 0, int8 = 1, int4 = 2 };
constexpr int kFormats = 3;

constexpr std::int64_t kTile = 16;
constexpr std::int64_t kGroup = 32;
constexpr std::int64_t kLine = 64;
constexpr std::int64_t kMostInputs = std::int64_t{1} << 24;
constexpr std::int64_t kMostOutputs = std::int64_t{1} << 32;

constexpr std::int64_t block_inputs(Format format) { return format == Format::bf16 ? 32 : 64; }
constexpr std::int64_t block_bytes(Format format) {
    return format == Format::bf16 ? 16 * kLine : format == Format::int8 ? 17 * kLine : 9 * kLine;
}
constexpr std::int64_t quantized_zero(Format format) { return format == Format::int8 ? 128 : 8; }

struct Packed {
    const std::uint8_t *data;  // on a line
    std::int64_t outputs, inputs;
    Format format;

    std::int64_t tiles() const { return (outputs + kTile - 1) / kTile; }
    std::int64_t blocks() const { return (inputs + block_inputs(format) - 1) / block_inputs(format); }
    std::int64_t tile_bytes() const { return blocks() * block_bytes(format); }
    std::int64_t bytes() const { return tiles() * tile_bytes(); }
};

enum class Element : int { f32 = 0, bf16 = 1, f16 = 2 };

struct Rows {  // a matrix as checkpoints have it
    const void *data;
    std::int64_t step;  // elements from a row to the next
    Element element;
};

// Write `rows` into `to` (packed.bytes(), whose address packed.data is). Scales are the least that hold a group's
// largest weight, which becomes -128 (int8) or is chosen for the least squared error (int4).
// False if a weight is not finite or too large for the format; `to` is undefined then.
bool pack(Pool::Turn &turn, const Rows &rows, const Packed &packed, std::uint8_t *to);

// out[i] = row ids[i] of the matrix as float, exactly. Every id must be in range.
void unpack(Pool::Turn &turn, const Packed &packed, const std::int64_t *ids, std::int64_t count, float *out,
            std::int64_t out_step);
void unpack_row(const Packed &packed, std::int64_t id, float *out);

}  // namespace kelm
