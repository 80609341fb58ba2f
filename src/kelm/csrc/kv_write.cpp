// Keys and values into their blocks, in the order in which attention reads them (attention.hpp).
#include "attention.hpp"

namespace kelm {
namespace {

void write_bf16(std::uint8_t *block, std::int64_t slot, std::int64_t head_dim, const float *key, const float *value) {
    auto *k = reinterpret_cast<std::uint16_t *>(block) + slot * 2;
    auto *v = reinterpret_cast<std::uint16_t *>(block) + kBlockTokens * head_dim + slot / 2 * head_dim * 2 + slot % 2;
    for (std::int64_t d = 0; d < head_dim; d += 2) {
        k[d * kBlockTokens] = to_bf16(key[d]);
        k[d * kBlockTokens + 1] = to_bf16(key[d + 1]);
    }
    for (std::int64_t d = 0; d < head_dim; ++d) v[d * 2] = to_bf16(value[d]);
    if (slot % 2 == 0)
        for (std::int64_t d = 0; d < head_dim; ++d) v[d * 2 + 1] = 0;
}

void write_float(std::uint8_t *block, std::int64_t slot, std::int64_t head_dim, const float *key, const float *value) {
    auto *k = reinterpret_cast<float *>(block) + slot;
    auto *v = reinterpret_cast<float *>(block) + kBlockTokens * head_dim + slot * head_dim;
    for (std::int64_t d = 0; d < head_dim; ++d) k[d * kBlockTokens] = key[d];
    for (std::int64_t d = 0; d < head_dim; ++d) v[d] = value[d];
}

}  // namespace

void write_kv(const KvWrite &op, const KvSpan &span, std::int64_t first, std::int64_t count) {
    const auto write = op.kv.type == KvType::bfloat16 ? write_bf16 : write_float;
    const std::int64_t dim = op.kv.head_dim;
    for (std::int64_t row = first; row < first + count; ++row) {
        const std::int64_t position = span.context + row, block = span.table[position / kBlockTokens];
        for (std::int64_t head = 0; head < op.kv.kv_heads; ++head) {
            const std::int64_t at = (span.row + row) * op.kv_stride + head * dim;
            write(block_of(op.kv, block, op.layer, head), position % kBlockTokens, dim, op.keys + at, op.values + at);
        }
    }
}

}  // namespace kelm
