// The team: a hand-over by epoch number, a sense-reversing barrier, and care for exceptions, fork and idleness.
//
// When other programs keep the processors busy, the scheduler may leave two threads of a team on one processor for
// seconds, where each barrier costs a switch. So a thread that finds itself beside another of its team moves away.
//
// Between the calls of one token a few microseconds of Python pass, so workers spin for a moment, then yield, and only
// after about a millisecond without work do they sleep: an idle engine uses no processor time.
#include "threads.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <cstdint>
#include <exception>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace ingle {
namespace {

// Pauses before the first yield: one to three microseconds, or, where every thread has a processor, some 200. Whoever
// yields to another program has given its time away for milliseconds, at every barrier.
constexpr int kSpins = 60, kLongSpins = 4000;
constexpr int kYields = 2000;  // then about a millisecond of yields before a worker sleeps

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Spins until ready() or the patience ends (patience < 0: never ends). Works when threads outnumber processors.
template <class Ready>
bool spin(Ready ready, int spins, int yields) {
  for (int i = 0; i < spins; ++i) {
    if (ready()) return true;
    pause();
  }
  for (int i = 0; yields < 0 || i < yields; ++i) {
    if (ready()) return true;
    sched_yield();
  }
  return ready();
}

#if defined(__linux__)
int available_cpus() {
  cpu_set_t allowed;
  return sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
}

int this_cpu() { return sched_getcpu(); }

// Moves this thread to a processor it may use and that none of `n` others is on, where there is one.
void move_away(const std::atomic<int>* others, int n) {
  cpu_set_t allowed, free;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  free = allowed;
  for (int i = 0; i < n; ++i) {
    const int cpu = others[i].load(std::memory_order_relaxed);
    if (cpu >= 0 && cpu < CPU_SETSIZE) CPU_CLR(cpu, &free);
  }
  if (CPU_COUNT(&free) == 0 || sched_setaffinity(0, sizeof free, &free) != 0) return;
  sched_setaffinity(0, sizeof allowed, &allowed);  // moved; the scheduler is free again
}
#else
int available_cpus() { return static_cast<int>(std::thread::hardware_concurrency()); }
int this_cpu() { return -1; }
void move_away(const std::atomic<int>*, int) {}
#endif

// Threads do not survive a fork. A team that notices the number has changed starts new workers in the child.
std::atomic<uint32_t> fork_count{0};

void watch_forks() {
  static const int once = pthread_atfork(nullptr, nullptr, [] { fork_count.fetch_add(1); });
  (void)once;
}

// Thrown by barrier() in the threads that wait when another has failed; never leaves run().
struct Abandoned {};

}  // namespace

struct Team::Impl {
  using Job = std::function<void(int, int)>;

  explicit Impl(int n)
      : n_threads(n),
        spins(n <= available_cpus() ? kLongSpins : kSpins),
        forks(fork_count.load()),
        cpus(static_cast<size_t>(n)) {
    for (auto& cpu : cpus) cpu.store(-1);
    try {
      for (int i = 1; i < n; ++i) workers.emplace_back([this, i] { work(i); });
    } catch (...) {
      stop();
      throw;
    }
  }

  void stop() {
    quit.store(true);
    epoch.fetch_add(1);
    epoch.notify_all();
    for (auto& worker : workers) worker.join();
  }

  void work(int index) {
    uint32_t seen = 0, moved = 0;
    for (;;) {
      if (!spin([&] { return epoch.load(std::memory_order_acquire) != seen; }, spins, kYields)) {
        epoch.wait(seen, std::memory_order_acquire);
        continue;
      }
      ++seen;
      if (quit.load()) return;
      if (note_cpu(index) && seen - moved >= kMoveEvery) {
        moved = seen;
        move_away(cpus.data(), index);
        note_cpu(index);
      }
      call(index);
      running.fetch_sub(1, std::memory_order_release);
    }
  }

  // Keeps where a thread is, and says whether one of lower index is there too.
  bool note_cpu(int index) {
    const int cpu = this_cpu();
    if (cpu < 0) return false;
    auto& mine = cpus[static_cast<size_t>(index)];
    if (mine.load(std::memory_order_relaxed) != cpu) mine.store(cpu, std::memory_order_relaxed);
    for (int i = 0; i < index; ++i)
      if (cpus[static_cast<size_t>(i)].load(std::memory_order_relaxed) == cpu) return true;
    return false;
  }

  void call(int index) {
    try {
      (*job)(index, n_threads);
    } catch (const Abandoned&) {
    } catch (...) {
      if (!failed.exchange(true)) failure = std::current_exception();
    }
  }

  void run(const Job& f) {
    job = &f;
    note_cpu(0);
    failed.store(false, std::memory_order_relaxed);
    arrived.store(0, std::memory_order_relaxed);
    running.store(n_threads - 1, std::memory_order_relaxed);
    epoch.fetch_add(1, std::memory_order_release);
    epoch.notify_all();
    call(0);
    spin([&] { return running.load(std::memory_order_acquire) == 0; }, spins, -1);
    if (failed.load()) std::rethrow_exception(std::exchange(failure, nullptr));
  }

  void barrier() {
    const uint32_t old = phase.load(std::memory_order_relaxed);
    if (arrived.fetch_add(1, std::memory_order_acq_rel) == n_threads - 1) {
      arrived.store(0, std::memory_order_relaxed);
      phase.store(old + 1, std::memory_order_release);
      return;
    }
    spin(
        [&] {
          return phase.load(std::memory_order_acquire) != old || failed.load(std::memory_order_relaxed);
        },
        spins, -1);
    if (phase.load(std::memory_order_acquire) == old) throw Abandoned{};
  }

  const int n_threads, spins;
  const uint32_t forks;
  static constexpr uint32_t kMoveEvery = 2;  // calls between two moves of a thread: a token is a call or two
  const Job* job = nullptr;
  std::exception_ptr failure;
  alignas(64) std::atomic<uint32_t> epoch{0};
  std::atomic<bool> quit{false};
  alignas(64) std::atomic<int> running{0};
  alignas(64) std::atomic<int> arrived{0};
  alignas(64) std::atomic<uint32_t> phase{0};
  alignas(64) std::atomic<bool> failed{false};
  alignas(64) std::vector<std::atomic<int>> cpus;  // where each thread last was; -1 = not known
  std::vector<std::thread> workers;
};

Team::Team(int n_threads) {
  if (n_threads < 1 || n_threads > 1024) throw std::invalid_argument("a team has 1 to 1024 threads");
  watch_forks();
  impl_ = new Impl(n_threads);
}

Team::~Team() {
  if (impl_->forks != fork_count.load()) return;  // a child has no such threads: nothing to join, the memory is left
  impl_->stop();
  delete impl_;
}

int Team::size() const { return impl_->n_threads; }

void Team::run(const std::function<void(int, int)>& f) {
  if (impl_->n_threads == 1) return f(0, 1);
  if (impl_->forks != fork_count.load(std::memory_order_relaxed)) impl_ = new Impl(impl_->n_threads);
  impl_->run(f);
}

void Team::barrier() {
  if (impl_->n_threads > 1) impl_->barrier();
}

}  // namespace ingle
