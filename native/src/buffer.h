// Memory for floats on 64-byte lines that grows and is kept: intermediate results are allocated once.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace ingle {

class Buffer {
 public:
  // Room for n floats; what was in it is lost when it grows. Throws std::bad_alloc.
  float* reserve(int64_t n) {
    if (n > capacity_) {
      data_.reset();
      capacity_ = 0;
      data_.reset(static_cast<float*>(::operator new(static_cast<size_t>(n) * sizeof(float), kLine)));
      capacity_ = n;
    }
    return data_.get();
  }
  float* data() const { return data_.get(); }
  int64_t capacity() const { return capacity_; }

 private:
  static constexpr std::align_val_t kLine{64};
  struct Free {
    void operator()(float* p) const { ::operator delete(p, kLine); }
  };
  std::unique_ptr<float, Free> data_;
  int64_t capacity_ = 0;
};

}  // namespace ingle
