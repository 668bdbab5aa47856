// Memory on whole pages for what comes and goes: matrices read again for every pass, and pieces of files.
//
// It is mapped, not allocated: what malloc is given back it may keep, and a budget counts that.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ingle {

class Room {
 public:
  static constexpr size_t kLargePage = 2 << 20;

  // On large pages as far as the system has them. Throws std::bad_alloc.
  explicit Room(size_t bytes);
  ~Room();
  Room(const Room&) = delete;
  Room& operator=(const Room&) = delete;

  uint8_t* data() const { return data_; }
  size_t bytes() const { return bytes_; }

 private:
  uint8_t* data_ = nullptr;
  size_t bytes_ = 0, mapped_ = 0;
};

}  // namespace ingle
