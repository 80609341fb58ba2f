// One piece of attention over a type Lanes of 16 floats and a product `dot_pairs` of bfloat16 pairs, which each
// instruction set's unit defines before including this. Internal linkage throughout, for the reason in rms_norm_rows.hpp.
#pragma once

#include "attention.hpp"

namespace kelm {
namespace {

constexpr std::int64_t kTileBlocks = kKvTile / kBlockTokens;
constexpr int kGroupOfQueries = 8;  // rows of accumulators that stay in registers
constexpr float kFloor = -1e30f;    // of the running maximum: a hidden score of -inf has the weight 0 against it
constexpr float kHidden = -__builtin_inff();

// exp for x <= 0, to 2 units in the last place; 0 below -87.3 (Cephes' polynomial).
Lanes exp_lanes(Lanes x) {
    const Lanes low = Lanes::fill(-87.336f);
    const Lanes clamped = Lanes::max(x, low);
    const Lanes n = Lanes::nearest(clamped * Lanes::fill(1.44269504088896341f));
    Lanes r = clamped - n * Lanes::fill(0.693359375f);
    r = r - n * Lanes::fill(-2.12194440e-4f);
    Lanes p = Lanes::fill(1.9875691500e-4f);
    p = p * r + Lanes::fill(1.3981999507e-3f);
    p = p * r + Lanes::fill(8.3334519073e-3f);
    p = p * r + Lanes::fill(4.1665795894e-2f);
    p = p * r + Lanes::fill(1.6666665459e-1f);
    p = p * r + Lanes::fill(5.0000001201e-1f);
    const Lanes made = (p * (r * r) + r + Lanes::fill(1.0f)).times_two_to(n);
    return Lanes::select_less(x, low, Lanes::fill(0.0f), made);
}

// tanh(x) = sign(x) * (1 - 2 / (exp(2|x|) + 1)), by way of exp(-2|x|).
Lanes tanh_lanes(Lanes x) {
    const Lanes zero = Lanes::fill(0.0f), one = Lanes::fill(1.0f);
    const Lanes size = Lanes::max(x, zero - x);
    const Lanes e = exp_lanes(zero - (size + size));
    const Lanes t = (one - e) / (one + e);
    return Lanes::select_less(x, zero, zero - t, t);
}

// float32 KV: one dimension (of K) or one position (of V) a step.
struct Floats {
    static constexpr std::int64_t kItems = 1;
    using Scalar = float;
    static Lanes dot(Lanes sum, const std::uint8_t *at, Scalar by) {
        return sum + Lanes::load(reinterpret_cast<const float *>(at)) * Lanes::fill(by);
    }
    static void put(Lanes lanes, Scalar *to) { lanes.store(to); }
};

// bfloat16 KV: a pair of them a step.
struct Halves {
    static constexpr std::int64_t kItems = 2;
    using Scalar = std::uint32_t;
    static Lanes dot(Lanes sum, const std::uint8_t *at, Scalar by) { return dot_pairs(sum, at, by); }
    static void put(Lanes lanes, Scalar *to) { lanes.store_bf16(to); }
};

// The query vectors of a piece; each has its position, its running maximum and sum, and its part of the output.
template <typename Kv>
struct Piece {
    alignas(64) float score[kMaxQueries][kKvTile];
    alignas(64) float out[kMaxQueries][kMaxHeadDim];
    alignas(64) typename Kv::Scalar q[kMaxQueries][kMaxHeadDim / Kv::kItems];
    alignas(64) typename Kv::Scalar weight[kMaxQueries][kKvTile / Kv::kItems];
    Lanes sum[kMaxQueries];
    float top[kMaxQueries];
    std::int64_t position[kMaxQueries];
    std::int64_t queries;
};

// M queries against B blocks of K: score[m][16 * b + lane].
template <typename Kv, int M, int B>
void score_blocks(Piece<Kv> &piece, int m0, const std::uint8_t *const *k, std::int64_t column, std::int64_t steps) {
    Lanes acc[M][B];
    for (int m = 0; m < M; ++m)
        for (int b = 0; b < B; ++b) acc[m][b] = Lanes::fill(0.0f);
    for (std::int64_t i = 0; i < steps; ++i)
        for (int b = 0; b < B; ++b)
            for (int m = 0; m < M; ++m) acc[m][b] = Kv::dot(acc[m][b], k[b] + i * 64, piece.q[m0 + m][i]);
    for (int m = 0; m < M; ++m)
        for (int b = 0; b < B; ++b) acc[m][b].store(piece.score[m0 + m] + column + b * kBlockTokens);
}

// The tile's blocks: K and V of each, nullptr where a window freed it or the sequence ends before.
struct Tile {
    const std::uint8_t *k[kTileBlocks];
    const std::uint8_t *v[kTileBlocks];
    std::int64_t first;  // position
    std::int64_t last;   // position of the piece's last row
};

// M queries' weights against the V of one tile: 16 dimensions at a time, position after position, up to the last that
// is written: behind it lies anything, and 0 times a NaN is one.
template <typename Kv, int M>
void add_values(Piece<Kv> &piece, int m0, const Tile &tile, std::int64_t head_dim, const float *kept) {
    constexpr std::int64_t steps = kBlockTokens / Kv::kItems;
    const std::int64_t step_bytes = head_dim * 4;
    for (std::int64_t d = 0; d < head_dim; d += 16) {
        Lanes acc[M];
        for (int m = 0; m < M; ++m) acc[m] = Lanes::fill(0.0f);
        for (std::int64_t b = 0; b < kTileBlocks; ++b) {
            if (tile.v[b] == nullptr) continue;
            const std::uint8_t *at = tile.v[b] + d * 4;
            const std::int64_t left = (tile.last - tile.first - b * kBlockTokens) / Kv::kItems + 1;
            for (std::int64_t i = 0; i < (left < steps ? left : steps); ++i)
                for (int m = 0; m < M; ++m)
                    acc[m] = Kv::dot(acc[m], at + i * step_bytes, piece.weight[m0 + m][b * steps + i]);
        }
        for (int m = 0; m < M; ++m) {
            float *out = piece.out[m0 + m] + d;
            (Lanes::load(out) * Lanes::fill(kept[m]) + acc[m]).store(out);
        }
    }
}

// Calls `run` with the queries in groups of 8, and a last one of 1 to 8, as a compile-time number.
template <typename Run>
void in_groups(std::int64_t queries, Run run) {
    for (int m0 = 0; m0 < queries; m0 += kGroupOfQueries) {
        const std::int64_t rest = queries - m0;
        if (rest >= 8) run.template operator()<8>(m0);
        else if (rest == 7) run.template operator()<7>(m0);
        else if (rest == 6) run.template operator()<6>(m0);
        else if (rest == 5) run.template operator()<5>(m0);
        else if (rest == 4) run.template operator()<4>(m0);
        else if (rest == 3) run.template operator()<3>(m0);
        else if (rest == 2) run.template operator()<2>(m0);
        else run.template operator()<1>(m0);
    }
}

Tile tile_at(const Attention &op, const KvSpan &span, std::int64_t number, std::int64_t last, std::int64_t head) {
    const std::int64_t item = op.kv.type == KvType::bfloat16 ? 2 : 4;
    Tile tile{{}, {}, number * kKvTile, last};
    for (std::int64_t b = 0; b < kTileBlocks; ++b) {
        const std::int64_t position = tile.first + b * kBlockTokens;
        const std::int32_t block = position <= last ? span.table[position / kBlockTokens] : -1;
        tile.k[b] = block < 0 ? nullptr : block_of(op.kv, block, op.layer, head);
        tile.v[b] = block < 0 ? nullptr : tile.k[b] + kBlockTokens * op.kv.head_dim * item;
    }
    return tile;
}

template <typename Kv>
struct ScoreTile {
    Piece<Kv> &piece;
    const Tile &tile;
    std::int64_t steps;
    template <int M>
    void operator()(int m0) const {
        for (std::int64_t b = 0; b < kTileBlocks; b += 2) {
            if (tile.k[b] != nullptr && tile.k[b + 1] != nullptr) {
                score_blocks<Kv, M, 2>(piece, m0, tile.k + b, b * kBlockTokens, steps);
                continue;
            }
            for (std::int64_t c = b; c < b + 2; ++c)
                if (tile.k[c] != nullptr) score_blocks<Kv, M, 1>(piece, m0, tile.k + c, c * kBlockTokens, steps);
        }
    }
};

template <typename Kv>
struct AddTile {
    Piece<Kv> &piece;
    const Tile &tile;
    std::int64_t head_dim;
    const float *kept;
    template <int M>
    void operator()(int m0) const {
        add_values<Kv, M>(piece, m0, tile, head_dim, kept + m0);
    }
};

void cap_scores(float *score, float cap) {
    for (std::int64_t i = 0; i < kKvTile; i += 16)
        (tanh_lanes(Lanes::load(score + i) / Lanes::fill(cap)) * Lanes::fill(cap)).store(score + i);
}

// Everything that a row at position `high` does not see is -inf; what lies there may be anything.
void hide_scores(float *score, const Tile &tile, std::int64_t low, std::int64_t high) {
    for (std::int64_t b = 0; b < kTileBlocks; ++b) {
        const std::int64_t first = tile.first + b * kBlockTokens;
        const bool there = tile.k[b] != nullptr;
        if (there && first >= low && first + kBlockTokens - 1 <= high) continue;
        for (std::int64_t i = 0; i < kBlockTokens; ++i)
            if (!there || first + i < low || first + i > high) score[b * kBlockTokens + i] = kHidden;
    }
}

// Scores of one query over one tile -> weights; returns what its earlier sum and output are kept by.
template <typename Kv>
float soften(Piece<Kv> &piece, std::int64_t m, const Attention &op, const Tile &tile) {
    float *score = piece.score[m];
    const std::int64_t high = piece.position[m];
    if (op.cap > 0.0f) cap_scores(score, op.cap);
    hide_scores(score, tile, op.window > 0 ? high - op.window + 1 : 0, high);
    Lanes most = Lanes::load(score);
    for (std::int64_t i = 16; i < kKvTile; i += 16) most = Lanes::max(most, Lanes::load(score + i));
    const float top = largest(most, piece.top[m]);
    const float kept = exp_lanes(Lanes::fill(piece.top[m] - top)).first();
    piece.top[m] = top;
    Lanes sum = piece.sum[m] * Lanes::fill(kept);
    for (std::int64_t i = 0; i < kKvTile; i += 16) {
        const Lanes w = exp_lanes(Lanes::load(score + i) - Lanes::fill(top));
        sum = sum + w;
        Kv::put(w, piece.weight[m] + i / Kv::kItems);
    }
    piece.sum[m] = sum;
    return kept;
}

// Which query vectors are in a piece: `heads` heads from `head` on, for each of `count` rows from `first` on.
struct Queries {
    std::int64_t first, count, head, heads;
};

template <typename Kv>
void load_queries(Piece<Kv> &piece, const Attention &op, const KvSpan &span, const Queries &which) {
    const std::int64_t dim = op.kv.head_dim;
    piece.queries = which.count * which.heads;
    for (std::int64_t m = 0; m < piece.queries; ++m) {
        const std::int64_t row = which.first + m / which.heads;
        const float *q = op.q + (span.row + row) * op.q_stride + (which.head + m % which.heads) * dim;
        piece.position[m] = span.context + row;
        piece.top[m] = kFloor;
        piece.sum[m] = Lanes::fill(0.0f);
        for (std::int64_t d = 0; d < dim; d += 16) {
            Kv::put(Lanes::load(q + d) * Lanes::fill(op.scale), piece.q[m] + d / Kv::kItems);
            Lanes::fill(0.0f).store(piece.out[m] + d);
        }
    }
}

template <typename Kv>
void store_out(const Piece<Kv> &piece, const Attention &op, const KvSpan &span, const Queries &which) {
    const std::int64_t dim = op.kv.head_dim;
    for (std::int64_t m = 0; m < piece.queries; ++m) {
        const std::int64_t row = span.row + which.first + m / which.heads;
        float *out = op.out + row * op.out_stride + (which.head + m % which.heads) * dim;
        const Lanes sum = Lanes::fill(total(piece.sum[m]));
        for (std::int64_t d = 0; d < dim; d += 16) (Lanes::load(piece.out[m] + d) / sum).store(out + d);
    }
}

template <typename Kv>
void attend(const Attention &op, const KvSpan &span, const Queries &which, std::int64_t kv_head) {
    static thread_local Piece<Kv> piece;
    const std::int64_t dim = op.kv.head_dim, last = span.context + which.first + which.count - 1;
    const std::int64_t lowest = op.window > 0 ? span.context + which.first - op.window + 1 : 0;
    load_queries(piece, op, span, which);
    for (std::int64_t number = lowest > 0 ? lowest / kKvTile : 0; number <= last / kKvTile; ++number) {
        const Tile tile = tile_at(op, span, number, last, kv_head);
        float kept[kMaxQueries];
        in_groups(piece.queries, ScoreTile<Kv>{piece, tile, dim / Kv::kItems});
        for (std::int64_t m = 0; m < piece.queries; ++m) kept[m] = soften(piece, m, op, tile);
        in_groups(piece.queries, AddTile<Kv>{piece, tile, dim, kept});
    }
    store_out(piece, op, span, which);
}

void attention_piece(const Attention &op, const KvSpan &span, std::int64_t first, std::int64_t count,
                     std::int64_t kv_head) {
    const std::int64_t group = op.heads / op.kv.kv_heads, end = (kv_head + 1) * group;
    for (std::int64_t head = kv_head * group; head < end; head += kMaxQueries) {
        const Queries which{first, count, head, end - head < kMaxQueries ? end - head : kMaxQueries};
        if (op.kv.type == KvType::bfloat16) attend<Halves>(op, span, which, kv_head);
        else attend<Floats>(op, span, which, kv_head);
    }
}

}  // namespace
}  // namespace kelm
