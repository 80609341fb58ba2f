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
        case Isa::amx_emulated: return amx_emulated_kernels;
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
    Product(const Linear &op, const Kernel &kernel, const RowOps &rows, int threads)
        : op_(op), kernel_(kernel), rows_(rows), most_(kernel.sizes[Kernel::kSizes - 1]), blocks_(op.weights.blocks()),
          panel_row_(kernel.row_bytes * blocks_), chunk_rows_(chunk_rows()),
          tiles_(op.rows == 1 ? kernel.one_row_tiles : kernel.tiles) {
        const std::int64_t chunks = (op.rows + chunk_rows_ - 1) / chunk_rows_;
        const std::int64_t steps = (op.weights.tiles() + tiles_ - 1) / tiles_;
        const std::int64_t step_work = tiles_ * op.weights.tile_bytes() * (4 + chunk_rows_) / 4;
        // Pieces of some 20 us, and at least a few for each thread.
        const std::int64_t few = std::max<std::int64_t>(1, steps * chunks / (4 * threads));
        piece_tiles_ = tiles_ * std::max<std::int64_t>(1, std::min(few, kPieceWork / step_work));
        if (pairs() && piece_tiles_ % 2) ++piece_tiles_;
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
    struct Tiles {
        std::int64_t first;
        int count;
    };

    static constexpr std::int64_t kPieceWork = 200000;
    static constexpr std::int64_t kAlone = 8192;  // activations that are packed before another thread has woken up

    // As many as the cache holds, and all chunks about the same; whole panels.
    std::int64_t chunk_rows() const {
        const std::int64_t fit = std::max(most_, std::min(kMostRows, kChunkBytes / panel_row_) / most_ * most_);
        const std::int64_t chunks = (op_.rows + fit - 1) / fit;
        return ((op_.rows + chunks - 1) / chunks + most_ - 1) / most_ * most_;
    }

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
        for (std::int64_t tile = first; tile < end;) {
            const bool fits = tile + tiles_ <= end && (!pairs() || tiles_ % 2 == 0);
            const int tiles = fits ? tiles_ : pairs() ? 2 : 1;
            step(row, rows, tile, tiles);
            tile += tiles;
        }
    }

    void step(std::int64_t row, std::int64_t rows, std::int64_t tile, int tiles) const {
        alignas(64) float sums[kMostRows * kMostTiles * kTile];
        const std::int64_t width = tiles * kTile;
        const std::int64_t last = rows % most_;
        std::fill(sums, sums + (rows - last + (last ? size_of(last) : 0)) * width, 0.0f);
        const std::int64_t bytes = block_bytes(op_.weights.format);
        const std::int64_t at_once = rows <= most_ ? blocks_ : std::max<std::int64_t>(1, kernel_.chunk_bytes / bytes);
        const int together = tiles == tiles_ ? tiles : 1;
        for (int t = 0; t < tiles; t += together)
            for (std::int64_t block = 0; block < blocks_; block += at_once)
                multiply(row, rows, {tile + t, together}, block, std::min(at_once, blocks_ - block), sums + t * kTile,
                         width);
        for (std::int64_t r = 0; r < rows; ++r) store(row + r, tile, tiles, sums + r * width);
    }

    // All panels of the chunk over the same part of the weights. Each fetches its share of the next part.
    void multiply(std::int64_t row, std::int64_t rows, Tiles of, std::int64_t block, std::int64_t count, float *sums,
                  std::int64_t width) const {
        const std::int64_t tile = of.first;
        const int tiles = of.count;
        const std::int64_t bytes = block_bytes(op_.weights.format), tile_bytes = op_.weights.tile_bytes();
        const std::uint8_t *weights = op_.weights.data + tile * tile_bytes + block * bytes, *next = nullptr;
        std::int64_t share = 0;
        if (rows > most_) {
            const bool last = block + count == blocks_;
            next = last ? weights - block * bytes + tiles * tile_bytes : weights + count * bytes;
            const std::int64_t panels = (rows + most_ - 1) / most_;
            share = last && tile + tiles >= op_.weights.tiles() ? 0 : (count * bytes / kLine + panels - 1) / panels;
        }
        for (std::int64_t r = 0; r < rows; r += most_) {
            const int size = size_of(std::min<std::int64_t>(most_, rows - r));
            const std::uint8_t *panel = panels_ + (row + r) * panel_row_ + block * size * kernel_.row_bytes;
            kernel_.multiply({weights, tile_bytes, tiles, panel, size, count, sums + r * width, width,
                              next ? next + r / most_ * share * kLine : nullptr, share});
        }
    }

    bool pairs() const { return op_.epilogue == Epilogue::gate; }

    void store(std::int64_t row, std::int64_t tile, int tiles, float *sums) const {
        const std::int64_t first = tile * kTile, count = std::min(tiles * kTile, op_.weights.outputs - first);
        if (op_.bias)
            for (std::int64_t i = 0; i < count; ++i) sums[i] += op_.bias[first + i];
        if (pairs()) return finish(sums, op_.out + row * op_.out_step, first / 2, count / 2);
        finish(sums, op_.out + row * op_.out_step, first, count);
    }

    // Columns [first, first + count) of a row.
    void finish(const float *made, float *out, std::int64_t first, std::int64_t count) const {
        if (op_.epilogue == Epilogue::none) {
            std::copy(made, made + count, out + first);
            return;
        }
        count = std::min(count, op_.columns - first);
        if (op_.epilogue == Epilogue::add) rows_.add(made, count, out + first);
        else if (op_.epilogue == Epilogue::activate) rows_.activate(made, count, op_.activation, out + first);
        else rows_.gate(made, count, op_.activation, out + first);
    }

    static constexpr std::int64_t kMostRows = 192, kMostTiles = 2,  // or one row of more tiles
        kChunkBytes = 1 << 20;

    const Linear &op_;
    const Kernel &kernel_;
    const RowOps &rows_;
    const std::int64_t most_, blocks_, panel_row_, chunk_rows_;
    const int tiles_;
    std::int64_t piece_tiles_, pieces_per_chunk_, pieces_;
    std::uint8_t *panels_ = nullptr;
};

}  // namespace

void linear(Pool::Turn &turn, Isa isa, const Linear &op) {
    if (op.rows == 0 || op.weights.outputs == 0) return;
    Product(op, kernel_of(isa, op.weights.format), row_ops_of(isa), turn.threads()).run(turn);
}

}  // namespace kelm
