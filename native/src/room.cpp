#include "room.h"

#include <sys/mman.h>

#include <new>

namespace ingle {
namespace {

constexpr size_t kPage = 64 << 10;  // a multiple of the pages that systems have

}  // namespace

Room::Room(size_t bytes) : bytes_(bytes) {
  if (bytes == 0) return;
  if (bytes > PTRDIFF_MAX / 2) throw std::bad_alloc();
  const size_t whole = (bytes + kPage - 1) / kPage * kPage;
  const size_t slack = bytes < kLargePage ? 0 : kLargePage;  // so that it can begin on a large page
  void* const mapped = mmap(nullptr, whole + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<uint8_t*>(mapped);
  mapped_ = whole;
  if (slack == 0) return;
  const size_t before = (kLargePage - reinterpret_cast<uintptr_t>(data_) % kLargePage) % kLargePage;
  if (before > 0) (void)munmap(data_, before);
  data_ += before;
  if (before < slack) (void)munmap(data_ + whole, slack - before);
#if defined(MADV_HUGEPAGE)
  // Advice only. Whole pages only: the last one would take more memory than was asked for.
  (void)madvise(data_, bytes / kLargePage * kLargePage, MADV_HUGEPAGE);
#endif
}

Room::~Room() {
  if (data_) (void)munmap(data_, mapped_);
}

}  // namespace ingle
