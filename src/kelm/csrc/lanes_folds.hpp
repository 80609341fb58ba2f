// Across the lanes of a Lanes: in one order on every instruction set. Included by the lanes_*.hpp.
#pragma once

#include <cstdint>

namespace kelm {
namespace {

// l += l + 8, then + 4, + 2, + 1.
inline float total(Lanes lanes) {
    alignas(64) float lane[16];
    lanes.store(lane);
    for (int half = 8; half > 0; half /= 2)
        for (int l = 0; l < half; ++l) lane[l] += lane[l + half];
    return lane[0];
}

inline float largest(Lanes lanes, float least) {
    alignas(64) float lane[16];
    lanes.store(lane);
    for (int l = 0; l < 16; ++l) least = lane[l] > least ? lane[l] : least;
    return least;
}

}  // namespace
}  // namespace kelm
