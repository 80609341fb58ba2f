// AMX. int8: tiles from seven rows on, VNNI below, with the same bits. A tile holds a group of 32 inputs (the sums are
// folded group by group), so half of what it could; still more than VNNI does. bf16: tiles at every row count, because
// their arithmetic has no equal among the other instructions. int4 runs on VNNI.
#include "lanes_512.hpp"
#include "tiles.hpp"

namespace kelm {
namespace {

constexpr int kWords = 1;

inline void dot(Ints &sum, Bytes weights, const std::int32_t *x) {
    sum.v = _mm512_dpbusd_epi32(sum.v, weights.v, _mm512_set1_epi32(*x));
}

}  // namespace
}  // namespace kelm

#include "linear_floats.hpp"
#include "linear_groups.hpp"

namespace kelm {
namespace {

constexpr int kTileRows = 16;

inline void prefetch(const std::uint8_t *&next, const std::uint8_t *end, std::int64_t lines, int tiles,
                     std::int64_t tile_bytes) {
    for (std::int64_t i = 0; i < lines && next < end; ++i, next += 64)
        for (int t = 0; t < tiles; ++t) __builtin_prefetch(next + t * tile_bytes, 0, 2);
}

// Sums of one group for kR x kT tiles, and where they belong.
template <int kR, int kT>
struct GroupSums {
    alignas(64) std::int32_t exact[kR][kT][kTileRows][16];
    const std::uint8_t *block = nullptr;
    const std::int32_t *panel = nullptr;
    int group = 0;

    void fold(const Multiply &op) const {
        if (!block) return;
        const int rows = kR * kTileRows;
        const auto *scales = reinterpret_cast<const float *>(panel + (kFours + group) * rows);
        const std::int32_t *starts = panel + (kFours + 2 + group) * rows;
        for (int t = 0; t < kT; ++t) {
            const Floats weight_scale = Floats::half(block + t * op.tile_bytes + group * 32);
            for (int r = 0; r < rows; ++r) {
                float *sum = op.sums + r * op.sums_step + t * 16;
                const Ints products{_mm512_load_si512(exact[r / kTileRows][t][r % kTileRows])};
                const Ints whole{_mm512_add_epi32(products.v, Ints::all(starts[r]).v)};
                fma(whole.to_floats(), weight_scale * Floats::all(scales[r]), Floats::load(sum)).store(sum);
            }
        }
    }
};

// Tiles 0 to 3 are sums, 4 and 5 rows, 6 and 7 weights.
template <int kR, int kT>
void group_tiles(Tiles &tiles, GroupSums<kR, kT> &to, const Multiply &op) {
    const auto *rows = reinterpret_cast<const std::uint8_t *>(to.panel) + to.group * 32;
    const std::uint8_t *lines = to.block + 64 + to.group * 512;
    tiles.zero<0>();
    tiles.load<4>(rows, 64);
    tiles.load<6>(lines, 64);
    tiles.add_signed_times_unsigned<0, 4, 6>();
    if (kT > 1) {
        tiles.zero<1>();
        tiles.load<7>(lines + op.tile_bytes, 64);
        tiles.add_signed_times_unsigned<1, 4, 7>();
    }
    if (kR > 1) {
        tiles.zero<2>();
        tiles.load<5>(rows + kTileRows * 64, 64);
        tiles.add_signed_times_unsigned<2, 5, 6>();
    }
    if (kR > 1 && kT > 1) {
        tiles.zero<3>();
        tiles.add_signed_times_unsigned<3, 5, 7>();
    }
    tiles.store<0>(to.exact[0][0], 64);
    if (kT > 1) tiles.store<1>(to.exact[0][kT - 1], 64);
    if (kR > 1) tiles.store<2>(to.exact[kR - 1][0], 64);
    if (kR > 1 && kT > 1) tiles.store<3>(to.exact[kR - 1][kT - 1], 64);
}

// Tiles work on a group while the vector units fold the one before it.
template <int kR, int kT>
void multiply_int8_tiles(const Multiply &op) {
    TileShapes shapes;
    for (int t = 0; t < 4; ++t) shapes.set(t, kTileRows, 64);
    for (int t = 4; t < 6; ++t) shapes.set(t, kTileRows, 32);
    for (int t = 6; t < 8; ++t) shapes.set(t, 8, 64);
    Tiles tiles(shapes);
    GroupSums<kR, kT> sums[2];
    const std::uint8_t *next = op.next, *end = op.next + 64 * op.next_lines;
    const std::int64_t each = (op.next_lines + 2 * op.blocks - 1) / (2 * op.blocks);
    for (std::int64_t g = 0; g < 2 * op.blocks; ++g) {
        GroupSums<kR, kT> &now = sums[g % 2];
        now.block = op.weights + g / 2 * kLinesBlock<Int8Lines>;
        now.panel = reinterpret_cast<const std::int32_t *>(op.panel) + g / 2 * kPanelWords * kR * kTileRows;
        now.group = static_cast<int>(g % 2);
        group_tiles(tiles, now, op);
        prefetch(next, end, each, kT, op.tile_bytes);
        sums[1 - g % 2].fold(op);
    }
    sums[1].fold(op);
}

void multiply_int8(const Multiply &op) {
    if (op.rows < kTileRows) return multiply_groups<Int8Lines>(op);
    if (op.rows == kTileRows) return op.tiles == 1 ? multiply_int8_tiles<1, 1>(op) : multiply_int8_tiles<1, 2>(op);
    return op.tiles == 1 ? multiply_int8_tiles<2, 1>(op) : multiply_int8_tiles<2, 2>(op);
}

template <int kR, int kT>
void multiply_bf16_tiles(const Multiply &op) {
    TileShapes shapes;
    for (int t = 0; t < 8; ++t) shapes.set(t, kTileRows, 64);
    Tiles tiles(shapes);
    const std::int64_t step = op.sums_step * 4;
    float *lower = op.sums + kTileRows * op.sums_step;
    tiles.load<0>(op.sums, step);
    if (kT > 1) tiles.load<1>(op.sums + 16, step);
    if (kR > 1) tiles.load<2>(lower, step);
    if (kR > 1 && kT > 1) tiles.load<3>(lower + 16, step);
    const std::uint8_t *next = op.next, *end = op.next + 64 * op.next_lines;
    const std::int64_t each = (op.next_lines + op.blocks - 1) / op.blocks;
    for (std::int64_t b = 0; b < op.blocks; ++b) {
        const std::uint8_t *rows = op.panel + b * kR * kTileRows * 64, *lines = op.weights + b * 1024;
        tiles.load<4>(rows, 64);
        tiles.load<6>(lines, 64);
        tiles.add_bf16<0, 4, 6>();
        if (!op.next)
            for (int i = 0; i < 16; ++i) __builtin_prefetch(lines + kAhead + i * 64);
        if (kT > 1) {
            tiles.load<7>(lines + op.tile_bytes, 64);
            tiles.add_bf16<1, 4, 7>();
            if (!op.next)
                for (int i = 0; i < 16; ++i) __builtin_prefetch(lines + op.tile_bytes + kAhead + i * 64);
        }
        if (kR > 1) {
            tiles.load<5>(rows + kTileRows * 64, 64);
            tiles.add_bf16<2, 5, 6>();
        }
        if (kR > 1 && kT > 1) tiles.add_bf16<3, 5, 7>();
        prefetch(next, end, each, kT, op.tile_bytes);
    }
    tiles.store<0>(op.sums, step);
    if (kT > 1) tiles.store<1>(op.sums + 16, step);
    if (kR > 1) tiles.store<2>(lower, step);
    if (kR > 1 && kT > 1) tiles.store<3>(lower + 16, step);
}

void multiply_bf16(const Multiply &op) {
    if (op.rows == kTileRows) return op.tiles == 1 ? multiply_bf16_tiles<1, 1>(op) : multiply_bf16_tiles<1, 2>(op);
    return op.tiles == 1 ? multiply_bf16_tiles<2, 1>(op) : multiply_bf16_tiles<2, 2>(op);
}

// A panel has, for each block, [rows, 32] bf16.
void pack_bf16_rows(const float *x, std::int64_t x_step, int rows, int size, std::int64_t inputs, std::uint8_t *panel) {
    const std::int64_t padded = (inputs + 31) / 32 * 32;
    alignas(64) float part[16];
    for (int r = 0; r < size; ++r)
        for (std::int64_t k = 0; k < padded; k += 16) {
            const std::int64_t there = r < rows ? inputs - k : 0;
            const float *from = x + r * x_step + k;
            if (there < 16) {
                for (std::int64_t i = 0; i < 16; ++i) part[i] = i < there ? from[i] : 0.0f;
                from = part;
            }
            const __m512i upper = _mm512_srli_epi32(_mm512_castps_si512(round_bf16(Floats::load(from)).v), 16);
            _mm256_storeu_si256(
                reinterpret_cast<__m256i *>(panel + k / 32 * 64 * size + r * 64 + k % 32 * 2),
                _mm512_cvtepi32_epi16(upper));
        }
}

constexpr Kernel bf16_kernel = {{16, 16, 16, 16, 32}, 2, 2, 16384, 64, pack_bf16_rows, multiply_bf16};
constexpr Kernel int8_kernel = {
    {1, 2, kRows, kTileRows, 2 * kTileRows}, 2, kOneRowTiles, 16384, kPanelWords * 4, pack_rows<Int8Lines>, multiply_int8};

}  // namespace
}  // namespace kelm

#if defined(KELM_EMULATE_TILES)
#define AMX_KERNELS amx_emulated_kernels
#else
#define AMX_KERNELS amx_kernels
#endif

const kelm::Kernels kelm::AMX_KERNELS = {bf16_kernel, int8_kernel, groups_kernel<Int4Lines>(), floats_kernel<Float32Lines>()};
