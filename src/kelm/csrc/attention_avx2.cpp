#include "lanes_avx2.hpp"
//
#include "attention_rows.hpp"

void kelm::attention_avx2(const Attention &op, const KvSpan &span, std::int64_t first, std::int64_t count,
                        std::int64_t head) {
    attention_piece(op, span, first, count, head);
}
