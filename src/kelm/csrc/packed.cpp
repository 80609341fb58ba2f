#include "packed.hpp"

#include <atomic>

#include "halves.hpp"

namespace kelm {
namespace {

struct Group {  // 32 inputs of one output
    float value[kGroup];
};

float element(const Rows &rows, std::int64_t index) {
    if (rows.element == Element::f32) return static_cast<const float *>(rows.data)[index];
    const std::uint16_t half = static_cast<const std::uint16_t *>(rows.data)[index];
    return rows.element == Element::bf16 ? bf16_to_float(half) : f16_to_float(half);
}

// Inputs `first` ... of row `output`, padded with zeros on both sides. False if one is not finite.
bool read_group(const Rows &rows, const Packed &packed, std::int64_t output, std::int64_t first, Group &group) {
    const std::int64_t there = output < packed.outputs ? packed.inputs - first : 0;
    bool good = true;
    for (std::int64_t i = 0; i < kGroup; ++i) {
        group.value[i] = i < there ? element(rows, output * rows.step + first + i) : 0.0f;
        good = good && finite(group.value[i]);
    }
    return good;
}

float largest(const Group &group) {  // with its sign; the first of several
    float found = 0.0f;
    for (const float v : group.value)
        if (__builtin_fabsf(v) > __builtin_fabsf(found)) found = v;
    return found;
}

float quantized(float value, float scale, float least, float most) {
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: what is added to it is rounded to an integer, ties to even
    const float ratio = value / scale;
    const float q = ratio < least ? least : ratio > most ? most : ratio;
    return (q + kRound) - kRound;
}

// The scale under which `peak` is -steps, or a little less. It has the other sign than peak, because the side of -128
// (or -8) has a step more than the other.
std::uint16_t scale_for(float peak, float steps) {
    return static_cast<std::uint16_t>(f16_at_least(__builtin_fabsf(peak) / steps) | (peak > 0.0f ? 0x8000 : 0));
}

float squared_error(const Group &group, float scale) {
    float sum = 0.0f;
    for (const float v : group.value) {
        const float error = quantized(v, scale, -8.0f, 7.0f) * scale - v;
        sum = sum + error * error;
    }
    return sum;
}

// Of nine scales around the one that just holds the largest weight, the one with the least error.
std::uint16_t int4_scale(const Group &group, float peak) {
    std::uint16_t best = 0;
    float least = 0.0f;
    for (int quarter = 28; quarter <= 36; ++quarter) {
        const std::uint16_t scale = scale_for(peak, static_cast<float>(quarter) / 4.0f);
        const float error = squared_error(group, f16_to_float(scale));
        if (quarter == 28 || error < least) best = scale, least = error;
    }
    return best;
}

bool pack_int8(const Group &group, std::uint8_t *block, std::int64_t half, std::int64_t output) {
    const float peak = largest(group);
    if (__builtin_fabsf(peak) > kLargestF16 * 128.0f) return false;
    const std::uint16_t scale = scale_for(peak, 128.0f);
    reinterpret_cast<std::uint16_t *>(block)[half * kTile + output] = scale;
    std::uint8_t *lines = block + kLine + half * 8 * kLine + output * 4;
    for (std::int64_t i = 0; i < kGroup; ++i) {
        const float q = peak == 0.0f ? 0.0f : quantized(group.value[i], f16_to_float(scale), -128.0f, 127.0f);
        lines[i / 4 * kLine + i % 4] = static_cast<std::uint8_t>(static_cast<int>(q) + 128);
    }
    return true;
}

bool pack_int4(const Group &group, std::uint8_t *block, std::int64_t half, std::int64_t output) {
    const float peak = largest(group);
    if (__builtin_fabsf(peak) > kLargestF16 * 7.0f) return false;
    const std::uint16_t scale = peak == 0.0f ? 0 : int4_scale(group, peak);
    reinterpret_cast<std::uint16_t *>(block)[half * kTile + output] = scale;
    std::uint8_t *lines = block + kLine + half * 4 * kLine + output * 4;
    for (std::int64_t i = 0; i < kGroup; ++i) {
        const float q = peak == 0.0f ? 0.0f : quantized(group.value[i], f16_to_float(scale), -8.0f, 7.0f);
        std::uint8_t &byte = lines[i / 8 * kLine + i % 4];
        const int nibble = static_cast<int>(q) + 8;
        byte = static_cast<std::uint8_t>(i % 8 < 4 ? nibble : byte | nibble << 4);
    }
    return true;
}

bool pack_bf16(const Group &group, std::uint8_t *block, std::int64_t, std::int64_t output) {
    auto *lines = reinterpret_cast<std::uint16_t *>(block) + output * 2;
    bool good = true;
    for (std::int64_t i = 0; i < kGroup; ++i) {
        const std::uint16_t half = float_to_bf16(group.value[i]);
        lines[i / 2 * (kLine / 2) + i % 2] = half;
        good = good && finite(bf16_to_float(half));
    }
    return good;
}

auto packer_of(Format format) {
    return format == Format::bf16 ? pack_bf16 : format == Format::int8 ? pack_int8 : pack_int4;
}

float unpacked(const Packed &packed, const std::uint8_t *block, std::int64_t output, std::int64_t input) {
    if (packed.format == Format::bf16)
        return bf16_to_float(reinterpret_cast<const std::uint16_t *>(block)[input / 2 * (kLine / 2) + output * 2 + input % 2]);
    const float scale = f16_to_float(reinterpret_cast<const std::uint16_t *>(block)[input / kGroup * kTile + output]);
    const std::uint8_t *lines = block + kLine + output * 4;
    if (packed.format == Format::int8) return static_cast<float>(lines[input / 4 * kLine + input % 4] - 128) * scale;
    const int byte = lines[input / 8 * kLine + input % 4];
    return static_cast<float>((input % 8 < 4 ? byte & 15 : byte >> 4) - 8) * scale;
}

}  // namespace

bool pack(Pool::Turn &turn, const Rows &rows, const Packed &packed, std::uint8_t *to) {
    std::atomic<bool> good{true};
    const auto packer = packer_of(packed.format);
    const std::int64_t groups = block_inputs(packed.format) / kGroup;
    turn.run(packed.tiles(), [&](std::int64_t tile) {
        Group group;
        for (std::int64_t b = 0; b < packed.blocks(); ++b) {
            std::uint8_t *block = to + tile * packed.tile_bytes() + b * block_bytes(packed.format);
            for (std::int64_t o = 0; o < kTile; ++o)
                for (std::int64_t g = 0; g < groups; ++g)
                    if (!read_group(rows, packed, tile * kTile + o, (b * groups + g) * kGroup, group) ||
                        !packer(group, block, g, o))
                        good.store(false, std::memory_order_relaxed);
        }
    });
    return good.load();
}

void unpack_row(const Packed &packed, std::int64_t id, float *out) {
    const std::int64_t width = block_inputs(packed.format);
    const std::uint8_t *tile = packed.data + id / kTile * packed.tile_bytes();
    for (std::int64_t i = 0; i < packed.inputs; ++i)
        out[i] = unpacked(packed, tile + i / width * block_bytes(packed.format), id % kTile, i % width);
}

void unpack(Pool::Turn &turn, const Packed &packed, const std::int64_t *ids, std::int64_t count, float *out,
            std::int64_t out_step) {
    turn.run(count, [&](std::int64_t row) { unpack_row(packed, ids[row], out + row * out_step); });
}

}  // namespace kelm
