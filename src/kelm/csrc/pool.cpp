#include "pool.hpp"

#include <csignal>
#include <cstdlib>
#include <new>
#include <stdexcept>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <time.h>
#endif

namespace kelm {
namespace {

using Word = std::atomic<std::uint32_t>;

// Sleep while `word` is `value`; may return early.
void sleep_while(Word &word, std::uint32_t value) {
#if defined(__linux__)
    syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
#else
    const timespec nap{0, 50000};
    if (word.load() == value) nanosleep(&nap, nullptr);
#endif
}

void wake(Word &word, int sleepers) {
#if defined(__linux__)
    syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, sleepers, nullptr, nullptr, 0);
#else
    (void)word, (void)sleepers;
#endif
}

void relax() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// True as soon as `done()`, false after kSpin. Looks at the clock every 16th time only.
template <typename Done>
bool spin_until(const Done &done) {
    const auto end = std::chrono::steady_clock::now() + Pool::kSpin;
    do {
        for (int i = 0; i < 16; ++i) {
            if (done()) return true;
            relax();
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

}  // namespace

// A run publishes its work, then a ticket with its number and its pieces. A thread reads ticket and work, and takes a
// piece by lowering the ticket: that succeeds only while the ticket is the run's and has pieces, and as a run ends only
// after all of its pieces, the work that was read is the run's. A thread that comes late finds none, or the next run's.
struct Pool::Shared {
    alignas(64) std::atomic<std::uint64_t> ticket{0};  // run << 32 | pieces that nobody has taken
    std::atomic<Piece> piece{nullptr};
    std::atomic<const void *> work{nullptr};
    std::atomic<std::int64_t> pieces{0};
    alignas(64) Word runs{0};  // what idle threads watch and sleep on
    Word idle{0};              // threads asleep, or about to be
    alignas(64) Word left{0};  // pieces of the run that are not done
    Word caller_sleeps{0};
    std::atomic<bool> stopping{false};
    std::mutex turn;

    void take_all() {
        for (;;) {
            std::uint64_t seen = ticket.load(std::memory_order_acquire);
            const Piece call = piece.load(std::memory_order_relaxed);
            const void *what = work.load(std::memory_order_relaxed);
            const std::int64_t all = pieces.load(std::memory_order_relaxed);
            const auto untaken = static_cast<std::int64_t>(seen & 0xffffffffu);
            if (untaken == 0) return;
            if (!ticket.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel)) continue;
            call(what, all - untaken);
            if (left.fetch_sub(1) == 1 && caller_sleeps.load()) wake(left, 1);
        }
    }

    void wait_for_pieces() {
        const auto none = [this] { return left.load(std::memory_order_acquire) == 0; };
        if (spin_until(none)) return;
        caller_sleeps.store(1);
        while (const std::uint32_t still = left.load()) sleep_while(left, still);
        caller_sleeps.store(0);
    }

    void wait_for_run(std::uint32_t last) {
        const auto some = [this, last] { return runs.load(std::memory_order_acquire) != last; };
        if (spin_until(some)) return;
        idle.fetch_add(1);
        while (runs.load() == last) sleep_while(runs, last);
        idle.fetch_sub(1);
    }
};

// After a fork the child has none of the threads, and what they held stays held: every pool starts anew at its next
// turn. The list is locked around the fork so that it is whole in the child.
struct Pools {
    std::mutex lock;
    std::vector<Pool *> all;

    static Pools &get() {
        static Pools *const pools = [] {
            pthread_atfork([] { get().lock.lock(); }, [] { get().lock.unlock(); },
                           [] {
                               for (Pool *pool : get().all) pool->forked();
                               get().lock.unlock();
                           });
            return new Pools;  // never destroyed: a fork may come while the process exits
        }();
        return *pools;
    }

    void add(Pool *pool) {
        const std::lock_guard<std::mutex> held(lock);
        all.push_back(pool);
    }

    void remove(Pool *pool) {
        const std::lock_guard<std::mutex> held(lock);
        for (auto &each : all)
            if (each == pool) each = all.back();
        all.pop_back();
    }
};

void Pool::Free::operator()(std::uint8_t *p) const { std::free(p); }

Pool::Pool(int threads) : threads_(threads < 1 ? 1 : threads), shared_(new Shared) {
    start();
    if (static_cast<int>(workers_.size()) != threads_ - 1) {
        stop();
        throw std::runtime_error("the system refused another thread");
    }
    Pools::get().add(this);
}

Pool::~Pool() {
    Pools::get().remove(this);
    stop();
}

void Pool::start() {
    sigset_t every, before;
    sigfillset(&every);
    pthread_sigmask(SIG_SETMASK, &every, &before);  // signals are for the threads that Python knows
    pthread_t thread;
    while (static_cast<int>(workers_.size()) < threads_ - 1 && pthread_create(&thread, nullptr, worker, shared_.get()) == 0)
        workers_.push_back(thread);
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Pool::stop() {
    shared_->stopping.store(true);
    shared_->runs.fetch_add(1);
    wake(shared_->runs, threads_);
    for (const pthread_t thread : workers_) pthread_join(thread, nullptr);
    workers_.clear();
}

void Pool::forked() {
    (void)shared_.release();   // its mutex may be locked for ever
    (void)scratch_.release();  // and this half replaced
    shared_.reset(new Shared);
    scratch_bytes_ = 0;
    workers_.clear();
}

void *Pool::worker(void *argument) {
    Shared &shared = *static_cast<Shared *>(argument);
    const FlushDenormals flush;
    for (std::uint32_t last = 0;;) {
        shared.wait_for_run(last);
        last = shared.runs.load();
        if (shared.stopping.load()) return nullptr;
        shared.take_all();
    }
}

void Pool::run(Piece piece, const void *work, std::int64_t pieces) {
    Shared &s = *shared_;
    if (pieces <= 1 || threads_ == 1) {
        for (std::int64_t i = 0; i < pieces; ++i) piece(work, i);
        return;
    }
    if (workers_.empty()) start();
    s.piece.store(piece, std::memory_order_relaxed);
    s.work.store(work, std::memory_order_relaxed);
    s.pieces.store(pieces, std::memory_order_relaxed);
    s.left.store(static_cast<std::uint32_t>(pieces));
    const std::uint32_t run = s.runs.load(std::memory_order_relaxed) + 1;
    s.ticket.store(static_cast<std::uint64_t>(run) << 32 | static_cast<std::uint64_t>(pieces), std::memory_order_release);
    s.runs.store(run);
    if (s.idle.load()) wake(s.runs, pieces - 1 < threads_ ? static_cast<int>(pieces - 1) : threads_);
    s.take_all();
    s.wait_for_pieces();
}

Pool::Turn::Turn(Pool &pool) : pool_(pool), lock_(pool.shared_->turn) {}

std::uint8_t *Pool::Turn::scratch(std::size_t bytes) {
    if (bytes > pool_.scratch_bytes_) {
        const std::size_t rounded = (bytes + 63) / 64 * 64;
        pool_.scratch_.reset();
        pool_.scratch_bytes_ = 0;
        pool_.scratch_.reset(static_cast<std::uint8_t *>(std::aligned_alloc(64, rounded)));
        if (!pool_.scratch_) throw std::bad_alloc();
        pool_.scratch_bytes_ = rounded;
    }
    return pool_.scratch_.get();
}

}  // namespace kelm
