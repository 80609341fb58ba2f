// The tile instructions of AMX that linear_amx.cpp uses, or the same in plain C++ (KELM_EMULATE_TILES), so that all of
// that file but the silicon is tested on every machine with AVX-512 VNNI. Tile numbers are constants.
//
// The configuration is a thread's own and others use it too (oneDNN does), so it is set for each step and released after
// it: a thread that keeps tiles makes every switch of context save 8 KiB.
#pragma once

#include <cstdint>

namespace kelm {
namespace {

constexpr int kTiles8 = 8;

struct __attribute__((packed)) TileShapes {
    std::uint8_t palette = 1, start = 0, reserved[14] = {};
    std::uint16_t bytes[16] = {};  // of a row
    std::uint8_t rows[16] = {};

    void set(int tile, int tile_rows, int row_bytes) {
        rows[tile] = static_cast<std::uint8_t>(tile_rows);
        bytes[tile] = static_cast<std::uint16_t>(row_bytes);
    }
};

#if !defined(KELM_EMULATE_TILES)

// Assembly, because GCC 12's intrinsics don't tell the compiler which memory they read: it drops stores before them.
struct Tiles {
    explicit Tiles(const TileShapes &shapes) { __asm__ volatile("ldtilecfg %0" ::"m"(shapes) : "memory"); }
    ~Tiles() { __asm__ volatile("tilerelease" ::: "memory"); }
    Tiles(const Tiles &) = delete;
    Tiles &operator=(const Tiles &) = delete;

    template <int kTo>
    void zero() {
        __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTo));
    }
    template <int kTo>
    void load(const void *from, std::int64_t row_step) {
        __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(kTo), "r"(from), "r"(row_step) : "memory");
    }
    template <int kFrom>
    void store(void *to, std::int64_t row_step) {
        __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(kFrom), "r"(to), "r"(row_step) : "memory");
    }
    template <int kTo, int kA, int kB>
    void add_signed_times_unsigned() {
        __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kTo), "i"(kA), "i"(kB));
    }
    template <int kTo, int kA, int kB>
    void add_bf16() {
        __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kTo), "i"(kA), "i"(kB));
    }
};

#else

struct Tiles {
    TileShapes shapes;
    std::uint8_t data[kTiles8][16][64] = {};

    explicit Tiles(const TileShapes &wanted) : shapes(wanted) {}

    template <int kTo>
    void zero() {
        __builtin_memset(data[kTo], 0, sizeof data[kTo]);
    }
    template <int kTo>
    void load(const void *from, std::int64_t row_step) {
        zero<kTo>();
        for (int r = 0; r < shapes.rows[kTo]; ++r)
            __builtin_memcpy(data[kTo][r], static_cast<const std::uint8_t *>(from) + r * row_step, shapes.bytes[kTo]);
    }
    template <int kFrom>
    void store(void *to, std::int64_t row_step) {
        for (int r = 0; r < shapes.rows[kFrom]; ++r)
            __builtin_memcpy(static_cast<std::uint8_t *>(to) + r * row_step, data[kFrom][r], shapes.bytes[kFrom]);
    }
    template <int kTo, int kA, int kB>
    void add_signed_times_unsigned() {
        for (int m = 0; m < shapes.rows[kTo]; ++m)
            for (int n = 0; n < shapes.bytes[kTo] / 4; ++n) {
                std::int32_t sum;
                __builtin_memcpy(&sum, data[kTo][m] + 4 * n, 4);
                for (int k = 0; k < shapes.bytes[kA]; ++k)
                    sum += static_cast<std::int8_t>(data[kA][m][k]) * data[kB][k / 4][4 * n + k % 4];
                __builtin_memcpy(data[kTo][m] + 4 * n, &sum, 4);
            }
    }
    // As Intel's manual has it: the even and the odd products of a row apart, then both, then onto the tile.
    template <int kTo, int kA, int kB>
    void add_bf16() {
        for (int m = 0; m < shapes.rows[kTo]; ++m)
            for (int n = 0; n < shapes.bytes[kTo] / 4; ++n) {
                float sum, part[2] = {};
                for (int k = 0; k < shapes.bytes[kA] / 2; ++k)
                    part[k % 2] = __builtin_fmaf(half(kA, m, k), half(kB, k / 2, 2 * n + k % 2), part[k % 2]);
                __builtin_memcpy(&sum, data[kTo][m] + 4 * n, 4);
                sum = sum + (part[0] + part[1]);
                __builtin_memcpy(data[kTo][m] + 4 * n, &sum, 4);
            }
    }
    float half(int tile, int row, int index) const {
        std::uint16_t bits;
        __builtin_memcpy(&bits, data[tile][row] + 2 * index, 2);
        const std::uint32_t wide = static_cast<std::uint32_t>(bits) << 16;
        float value;
        __builtin_memcpy(&value, &wide, 4);
        return value;
    }
};

#endif

}  // namespace
}  // namespace kelm
