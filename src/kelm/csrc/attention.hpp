// Paged attention over blocks of 16 positions, for decoding and for chunks of prompts alike.
//
//     a block of one layer and KV head, bfloat16     K  [head_dim / 2][16 positions][2]     V  [8][head_dim][2 positions]
//                                       float32      K  [head_dim][16 positions]            V  [16 positions][head_dim]
//
// so that 64 bytes of K are 16 positions at one pair of dimensions, and 64 bytes of V are 16 dimensions at one pair of
// positions: neither product needs a sum across lanes.
//
// A query vector folds tiles of 64 absolute positions in rising order with an online softmax (Milakov and Gimelshein
// 2018). What it computes depends on its own position and its sequence's KV only: not on the chunk, the batch or the
// threads.
#pragma once

#include <cstdint>

namespace kelm {

constexpr std::int64_t kBlockTokens = 16;
constexpr std::int64_t kKvTile = 64;  // positions
constexpr std::int64_t kMaxQueries = 16;  // query vectors that go over the KV together
constexpr std::int64_t kMaxHeadDim = 512;

enum class KvType : int { float32 = 0, bfloat16 = 1 };

// Where the blocks of one KV group lie in the arena.
struct KvBlocks {
    std::uint8_t *arena;
    std::int64_t slab_bytes;
    std::int64_t block_bytes;
    std::int64_t per_slab;    // blocks of a slab
    std::int64_t layer_bytes;  // of one layer in a block: kv_heads * 2 * 16 * head_dim items
    std::int64_t kv_heads;
    std::int64_t head_dim;  // a multiple of 16, at most kMaxHeadDim
    KvType type;
};

// The rows of one sequence: positions context, context + 1, ...
struct KvSpan {
    std::int64_t row;      // first row of the batch
    std::int64_t rows;
    std::int64_t context;
    const std::int32_t *table;  // block at position / 16; negative where a window freed it
};

struct Attention {
    KvBlocks kv;
    std::int64_t layer;  // index in the group
    const float *q;      // [rows, heads, head_dim], rows q_stride floats apart, rotated
    std::int64_t q_stride;
    float *out;  // [rows, heads, head_dim], rows out_stride floats apart
    std::int64_t out_stride;
    std::int64_t heads;
    float scale;          // of q . k
    float cap;            // soft cap of scores; 0: none
    std::int64_t window;  // positions that a row sees, its own included; 0: all before it
};

// Put the rows' keys and values [rows, kv_heads, head_dim] (kv_stride floats apart) into their blocks.
struct KvWrite {
    KvBlocks kv;
    std::int64_t layer;
    const float *keys;
    const float *values;
    std::int64_t kv_stride;
};

// How many rows of a span are one piece of work for one KV head.
inline std::int64_t attention_rows_at_once(const Attention &op) {
    const std::int64_t group = op.heads / op.kv.kv_heads;
    return group >= kMaxQueries ? 1 : kMaxQueries / group;
}

// One piece: rows [first, first + count) of the span, counted from its first, and one KV head. Any order, any thread.
void attention_portable(const Attention &op, const KvSpan &span, std::int64_t first, std::int64_t count, std::int64_t head);
void attention_avx2(const Attention &op, const KvSpan &span, std::int64_t first, std::int64_t count, std::int64_t head);
void attention_avx512(const Attention &op, const KvSpan &span, std::int64_t first, std::int64_t count, std::int64_t head);
void attention_avx512_bf16(const Attention &op, const KvSpan &span, std::int64_t first, std::int64_t count, std::int64_t head);

// Rows [first, first + count) of a span, counted from its first, all KV heads. Rows of one block are one thread's, in
// rising order: a value at an even position clears its neighbour, which attention reads with the weight 0.
void write_kv(const KvWrite &op, const KvSpan &span, std::int64_t first, std::int64_t count);

inline std::uint8_t *block_of(const KvBlocks &kv, std::int64_t block, std::int64_t layer, std::int64_t head) {
    const std::int64_t item = kv.type == KvType::bfloat16 ? 2 : 4;
    return kv.arena + block / kv.per_slab * kv.slab_bytes + block % kv.per_slab * kv.block_bytes +
           layer * kv.layer_bytes + head * 2 * kBlockTokens * kv.head_dim * item;
}

// Round to nearest, ties to even; a NaN stays one.
inline std::uint16_t to_bf16(float value) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0u;
    return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace kelm
