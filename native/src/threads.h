// A team of threads that spin between steps of one call and sleep between calls.
#pragma once
#include <functional>

namespace ingle {

class Team {
 public:
  explicit Team(int n_threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;
  int size() const;
  // Runs f(thread, n_threads) on every thread, the caller being thread 0; returns when all are done.
  void run(const std::function<void(int, int)>& f);
  // Inside run: all threads wait for each other.
  void barrier();

 private:
  struct Impl;
  Impl* impl_;
};

}  // namespace ingle
