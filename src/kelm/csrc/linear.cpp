#include "linear.hpp"

#include <algorithm>

#include "linear_kernels.hpp"

namespace kelm {
namespace {

const Kernels &kernels_of(Isa isa) {
#if defined(__x86_64__)
    switch (isa) {
#if defined(KELM_AMX)
        case Isa::amx: return amx_kernels;
#endif
        case Isa::avx512_vnni: return avx512_vnni_kernels;
        case Isa::avx512: return avx512_kernels;
#if defined(KELM_AVX_VNNI)
        case Isa::avx_vnni: return avx_vnni_kernels;
#endif
        case Isa::avx2: return avx2_kernels;
        default: break;
    }
#endif
    (void)isa;
    return portable_kernels;
}

const Kernel &kernel_of(Isa isa, Format format) {
    const Kernels &kernels = kernels_of(isa);
    return format == Format::bf16 ? kernels.bf16 : format == Format::int8 ? kernels.int8 : kernels.int4;
}

// How one product is cut. Rows go in chunks whose panels fit into a core's cache; in a chunk, a piece of work is a few
// neighbouring tiles. Nothing of this can be seen in the result.
class Product {
  public:
    Product(const Linear &op, const Kernel &kernel, int threads)
        : op_(op), kernel_(kernel), most_(kernel.sizes[Kernel::kSizes - 1]), blocks_(op.weights.blocks()),
          panel_row_(kernel.row_bytes * blocks_), chunk_rows_(std::min<std::int64_t>(kernel.chunk_rows, op.rows)) {
        const std::int64_t chunks = (op.rows + chunk_rows_ - 1) / chunk_rows_;
        const std::int64_t steps = (op.weights.tiles() + kernel.tiles - 1) / kernel.tiles;
        const std::int64_t step_work = kernel.tiles * op.weights.tile_bytes() * (4 + chunk_rows_) / 4;
        // Pieces of some 20 us, and at least a few for each thread.
        const std::int64_t few = std::max<std::int64_t>(1, steps * chunks / (4 * threads));
        piece_tiles_ = kernel.tiles * std::max<std::int64_t>(1, std::min(few, kPieceWork / step_work));
        pieces_per_chunk_ = (op.weights.tiles() + piece_tiles_ - 1) / piece_tiles_;
        pieces_ = pieces_per_chunk_ * chunks;
    }

    std::size_t panel_bytes() const { return static_cast<std::size_t>((op_.rows + most_) * panel_row_); }

    void run(Pool::Turn &turn) {
        panels_ = turn.scratch(panel_bytes());
        const std::int64_t panels = (op_.rows + most_ - 1) / most_;
        if (op_.rows * op_.weights.inputs < kAlone)
            for (std::int64_t p = 0; p < panels; ++p) pack(p);
        else
            turn.run(panels, [this](std::int64_t p) { pack(p); });
        turn.run(pieces_, [this](std::int64_t index) { piece(index); });
    }

  private:
    static constexpr std::int64_t kPieceWork = 200000;
    static constexpr std::int64_t kAlone = 8192;  // activations that are packed before another thread has woken up

    int size_of(std::int64_t rows) const {
        for (const int size : kernel_.sizes)
            if (size >= rows) return size;
        return most_;
    }

    void pack(std::int64_t panel) const {
        const std::int64_t first = panel * most_, rows = std::min<std::int64_t>(most_, op_.rows - first);
        kernel_.pack(op_.x + first * op_.x_step, op_.x_step, static_cast<int>(rows), size_of(rows), op_.weights.inputs,
                     panels_ + first * panel_row_);
    }

    void piece(std::int64_t index) const {
        const std::int64_t row = index / pieces_per_chunk_ * chunk_rows_;
        const std::int64_t rows = std::min(chunk_rows_, op_.rows - row);
        const std::int64_t first = index % pieces_per_chunk_ * piece_tiles_;
        const std::int64_t end = std::min(first + piece_tiles_, op_.weights.tiles());
        for (std::int64_t tile = first; tile < end; tile += kernel_.tiles)
            step(row, rows, tile, static_cast<int>(std::min<std::int64_t>(kernel_.tiles, end - tile)));
    }

    void step(std::int64_t row, std::int64_t rows, std::int64_t tile, int tiles) const {
        alignas(64) float sums[kMostRows * kMostTiles * kTile];
        const std::int64_t width = tiles * kTile;
        std::fill(sums, sums + (rows + most_) * width, 0.0f);
        const std::int64_t bytes = block_bytes(op_.weights.format);
        const std::int64_t at_once = rows <= most_ ? blocks_ : std::max<std::int64_t>(1, kernel_.chunk_bytes / bytes);
        for (std::int64_t block = 0; block < blocks_; block += at_once)
            for (std::int64_t r = 0; r < rows; r += most_) {
                const int size = size_of(std::min<std::int64_t>(most_, rows - r));
                kernel_.multiply({op_.weights.data + tile * op_.weights.tile_bytes() + block * bytes,
                                  op_.weights.tile_bytes(), tiles,
                                  panels_ + (row + r) * panel_row_ + block * size * kernel_.row_bytes, size,
                                  std::min(at_once, blocks_ - block), sums + r * width, width,
                                  r == 0 ? kAhead : 0});
            }
        for (std::int64_t r = 0; r < rows; ++r) store(row + r, tile, tiles, sums + r * width);
    }

    void store(std::int64_t row, std::int64_t tile, int tiles, const float *sums) const {
        const std::int64_t first = tile * kTile, count = std::min(tiles * kTile, op_.weights.outputs - first);
        float *out = op_.out + row * op_.out_step + first;
        if (op_.bias)
            for (std::int64_t i = 0; i < count; ++i) out[i] = sums[i] + op_.bias[first + i];
        else
            std::copy(sums, sums + count, out);
    }

    static constexpr std::int64_t kMostRows = 128, kMostTiles = 2, kAhead = 2048;

    const Linear &op_;
    const Kernel &kernel_;
    const std::int64_t most_, blocks_, panel_row_, chunk_rows_;
    std::int64_t piece_tiles_, pieces_per_chunk_, pieces_;
    std::uint8_t *panels_ = nullptr;
};

}  // namespace

void linear(Pool::Turn &turn, Isa isa, const Linear &op) {
    if (op.rows == 0 || op.weights.outputs == 0) return;
    Product(op, kernel_of(isa, op.weights.format), turn.threads()).run(turn);
}

}  // namespace kelm
