// Reading a file past the system's cache: what is read once for each pass would only push out of memory what is needed.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace ingle {

class DirectFile {
 public:
  // The file behind an open descriptor, which may be closed afterwards. Where it cannot be read directly (a file system
  // in memory, for example), it is read through the cache, and what was read is taken out of it again.
  // Throws std::system_error.
  explicit DirectFile(int descriptor);
  ~DirectFile();
  DirectFile(const DirectFile&) = delete;
  DirectFile& operator=(const DirectFile&) = delete;

  static constexpr size_t kPage = 4096;  // direct reads begin and end on these, in the file and in memory
  // What must be given to read n bytes: whole pages around them.
  static constexpr size_t room_for(size_t n) { return (n + kPage - 1) / kPage * kPage + kPage; }

  // Bytes [offset, offset + n): where they stand in `room`, which begins on a page and has room_for(n). Throws
  // std::system_error; ENODATA means that the file ends before them. Several threads may read.
  uint8_t* read(int64_t offset, size_t n, uint8_t* room) const;
  // Whether reads go past the cache.
  bool direct() const { return direct_ >= 0 && works_.load(std::memory_order_relaxed); }

 private:
  int buffered_ = -1, direct_ = -1;
  mutable std::atomic<bool> works_{true};
};

}  // namespace ingle
