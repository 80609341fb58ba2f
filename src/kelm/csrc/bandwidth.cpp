#include "bandwidth.hpp"

#include <algorithm>
#include <atomic>

namespace kelm {

namespace {

// Four streams side by side: one alone does not keep enough lines under way.
std::uint64_t read_piece(const std::uint64_t *words, std::int64_t count) {
    constexpr std::int64_t kStreams = 4, kAhead = 128;
    const std::int64_t part = count / kStreams / 8 * 8;
    std::uint64_t sum[8] = {};
    for (std::int64_t i = 0; i < part; i += 8)
        for (std::int64_t s = 0; s < kStreams; ++s) {
            __builtin_prefetch(words + s * part + i + kAhead);
            for (int j = 0; j < 8; ++j) sum[j] ^= words[s * part + i + j];
        }
    for (std::int64_t i = kStreams * part; i < count; ++i) sum[0] ^= words[i];
    for (int j = 1; j < 8; ++j) sum[0] ^= sum[j];
    return sum[0];
}

}  // namespace

std::uint64_t read_all(Pool::Turn &turn, const std::uint64_t *words, std::int64_t count) {
    constexpr std::int64_t kPiece = 1 << 15;  // 256 KiB
    std::atomic<std::uint64_t> all{0};
    turn.run((count + kPiece - 1) / kPiece, [&](std::int64_t piece) {
        const std::int64_t first = piece * kPiece;
        all.fetch_xor(read_piece(words + first, std::min(kPiece, count - first)), std::memory_order_relaxed);
    });
    return all.load();
}

}  // namespace kelm
