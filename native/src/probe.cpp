#include "probe.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "errors.h"
#include "kernels.h"
#include "threads.h"
#include "vector_ops.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ingle {
namespace {

constexpr double kPatience = 0.2;  // seconds of passes

// Seconds of the fastest pass of work(thread) on all threads, from the first one's start to the last one's end.
template <class Work>
double fastest(Team& team, const Work& work) {
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](Clock::duration d) { return std::chrono::duration<double>(d).count(); };
  std::vector<Clock::time_point> begin(size_t(team.size())), end(begin);
  double best = 0;
  const auto start = Clock::now();
  for (int pass = 0; pass < 3 || seconds(Clock::now() - start) < kPatience; ++pass) {
    team.run([&](int thread, int) {
      team.barrier();
      begin[size_t(thread)] = Clock::now();
      work(thread);
      end[size_t(thread)] = Clock::now();
    });
    const double s = seconds(*std::max_element(end.begin(), end.end()) - *std::min_element(begin.begin(), begin.end()));
    best = pass ? std::min(best, s) : s;
  }
  return best;
}

void check_threads(int n_threads) {
  if (n_threads < 1 || n_threads > 1024) throw BackendError("Expected 1 to 1024 threads.");
}

}  // namespace

double read_bandwidth(int64_t n_bytes, int n_threads) {
  check_threads(n_threads);
  if (n_bytes < 1 << 20) throw BackendError("Expected at least 1 MiB to read; ask for more.");
  constexpr size_t kHugePage = size_t(2) << 20, kPage = 4096;
  const size_t size = (size_t(n_bytes) + kHugePage - 1) / kHugePage * kHugePage;
  const std::unique_ptr<uint8_t, decltype(&std::free)> memory(
      static_cast<uint8_t*>(std::aligned_alloc(kHugePage, size)), &std::free);
  if (!memory) throw std::bad_alloc();
#if defined(__linux__)
  madvise(memory.get(), size, MADV_HUGEPAGE);
#endif
  const int64_t part = n_bytes / n_threads / 512 * 512;  // a multiple of what read() takes
  const int64_t repeats = std::max<int64_t>(1, (int64_t(256) << 20) / n_bytes);  // a pass is long beside its start
  Team team(n_threads);
  team.run([&](int thread, int) {  // memory that was never written is no memory
    for (int64_t i = 0; i < part; i += kPage) memory.get()[thread * part + i] = 1;
  });
  const double seconds = fastest(team, [&](int thread) {
    for (int64_t i = 0; i < repeats; ++i) vector_ops().read(memory.get() + thread * part, part);
  });
  return double(repeats * part * n_threads) / seconds * 1e-9;
}

double multiply_rate(int n_threads) {
  check_threads(n_threads);
  constexpr int64_t kOperations = int64_t(1) << 31;
  Team team(n_threads);
  return double(kOperations) * n_threads / fastest(team, [](int) { kernels().peak(kOperations); }) * 1e-9;
}

}  // namespace ingle
