// A module without threads: a team is its caller.
#include <stdexcept>

#include "threads.h"

namespace ingle {

Team::Team(int n_threads) : impl_(nullptr) {
  if (n_threads != 1) throw std::invalid_argument("a team has one thread in WebAssembly");
}

Team::~Team() = default;

int Team::size() const { return 1; }

void Team::run(const std::function<void(int, int)>& f) { f(0, 1); }

void Team::barrier() {}

}  // namespace ingle
