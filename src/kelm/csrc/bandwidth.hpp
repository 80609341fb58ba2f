// How fast the machine reads memory: what bounds a step that reads all weights once.
#pragma once

#include <cstdint>

#include "pool.hpp"

namespace kelm {

// The xor of all 64-bit words; read by all threads of the pool.
std::uint64_t read_all(Pool::Turn &turn, const std::uint64_t *words, std::int64_t count);

}  // namespace kelm
