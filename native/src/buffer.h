// Memory on 64-byte lines that grows and is kept: intermediate results are allocated once.
#pragma once
#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ingle {

class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Buffer() { release(); }

  // Room for n values; what was in it is lost when it grows. Throws std::bad_alloc.
  template <class T = float>
  T* reserve(int64_t n) {
    if (n > PTRDIFF_MAX / static_cast<int64_t>(sizeof(T))) throw std::bad_alloc();  // 32-bit addresses are soon used up
    const size_t bytes = static_cast<size_t>(n) * sizeof(T);
    if (bytes > bytes_) {
      release();
      data_ = ::operator new(bytes, alignment(bytes));
      bytes_ = bytes;
#if defined(__linux__)
      // Advice only: with large pages the addresses of many rows are found faster.
      if (bytes >= kHugePage) (void)madvise(data_, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
    }
    return as<T>();
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  float* data() const { return as<float>(); }
  int64_t capacity() const { return static_cast<int64_t>(bytes_ / sizeof(float)); }

 private:
  static constexpr size_t kHugePage = size_t{2} << 20;
  static std::align_val_t alignment(size_t bytes) { return std::align_val_t{bytes >= kHugePage ? kHugePage : 64}; }
  void release() {
    if (data_) ::operator delete(data_, alignment(bytes_));
    data_ = nullptr;
    bytes_ = 0;
  }
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace ingle
