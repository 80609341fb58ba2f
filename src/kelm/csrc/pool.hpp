// The threads that kernels share. Work comes in pieces, small against a time slice, and each thread takes the next one
// when it is done with its last: a core lost to another process delays one piece, never a barrier. Nobody waits for a
// thread to show up, only for pieces that have been taken. A thread without work spins for at most kSpin, so that the
// phases of a step follow each other at once, and then sleeps, so that an idle pool costs nothing.
//
// What a piece computes must not depend on the thread that takes it; then results do not depend on the pool's size.
#pragma once

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "flush.hpp"

namespace kelm {

class Pool {
  public:
    static constexpr std::chrono::microseconds kSpin{50};
    static constexpr std::int64_t kMostPieces = std::int64_t{1} << 31;

    // The caller of a turn is one of the `threads` (at least 1). Throws std::runtime_error if the system has no more.
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool &) = delete;
    Pool &operator=(const Pool &) = delete;

    int threads() const { return threads_; }

    // Exclusive use of the pool, for one call or for all phases of a step; another thread's turn waits.
    // Denormals count as zero on every thread until the turn ends.
    class Turn {
      public:
        explicit Turn(Pool &pool);

        // piece(0) ... piece(pieces - 1), each once, in any order and on any thread; returns when all are done.
        // A piece must not throw.
        template <typename Piece>
        void run(std::int64_t pieces, const Piece &piece) {
            pool_.run([](const void *work, std::int64_t index) { (*static_cast<const Piece *>(work))(index); }, &piece,
                      pieces);
        }

        int threads() const { return pool_.threads_; }

        // Memory for the turn, 64-byte aligned, undefined content. One at a time: the next call may move it.
        std::uint8_t *scratch(std::size_t bytes);

      private:
        Pool &pool_;
        std::unique_lock<std::mutex> lock_;
        FlushDenormals flush_;
    };

  private:
    using Piece = void (*)(const void *work, std::int64_t index);
    struct Shared;

    void run(Piece piece, const void *work, std::int64_t pieces);
    void start();
    void stop();
    void forked();
    static void *worker(void *shared);

    const int threads_;
    std::unique_ptr<Shared> shared_;
    std::vector<pthread_t> workers_;
    struct Free {
        void operator()(std::uint8_t *p) const;
    };
    std::unique_ptr<std::uint8_t[], Free> scratch_;
    std::size_t scratch_bytes_ = 0;

    friend struct Pools;
};

}  // namespace kelm
