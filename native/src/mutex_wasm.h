// Included before everything: a C++ library without threads has no std::mutex, and the core needs none there.
#pragma once

namespace std {

struct mutex {
  void lock() {}
  bool try_lock() { return true; }
  void unlock() {}
};

}  // namespace std
