#include "bandwidth.hpp"

#include <algorithm>
#include <atomic>

namespace kelm {

std::uint64_t read_all(Pool::Turn &turn, const std::uint64_t *words, std::int64_t count) {
    constexpr std::int64_t kPiece = 1 << 15, kAhead = 512;  // words: 256 KiB and 4 KiB
    std::atomic<std::uint64_t> all{0};
    turn.run((count + kPiece - 1) / kPiece, [&](std::int64_t piece) {
        const std::uint64_t *from = words + piece * kPiece, *end = std::min(from + kPiece, words + count);
        std::uint64_t sum[8] = {};
        for (; from + 8 <= end; from += 8) {
            __builtin_prefetch(from + kAhead);
            for (int i = 0; i < 8; ++i) sum[i] ^= from[i];
        }
        for (; from < end; ++from) sum[0] ^= *from;
        for (int i = 1; i < 8; ++i) sum[0] ^= sum[i];
        all.fetch_xor(sum[0], std::memory_order_relaxed);
    });
    return all.load();
}

}  // namespace kelm
