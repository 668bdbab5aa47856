#include "arena.h"

#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ingle {
namespace {

constexpr std::align_val_t kLine{64};
#if defined(MADV_HUGEPAGE)
constexpr std::align_val_t kPage{2 << 20};
constexpr size_t kSlab = 32 << 20;
#else
constexpr std::align_val_t kPage = kLine;
constexpr size_t kSlab = 0;  // every matrix has memory of its own
#endif

std::shared_ptr<uint8_t> allocate(size_t bytes) {
  std::shared_ptr<uint8_t> memory(static_cast<uint8_t*>(::operator new(bytes, kPage)),
                                  [](uint8_t* p) { ::operator delete(p, kPage); });
#if defined(MADV_HUGEPAGE)
  // Advice only: a failure changes nothing but speed. Whole pages only, the neighbours are not ours.
  (void)madvise(memory.get(), bytes / size_t(kPage) * size_t(kPage), MADV_HUGEPAGE);
#endif
  return memory;
}

}  // namespace

std::shared_ptr<uint8_t> Arena::take(size_t bytes) {
  bytes = (bytes + size_t(kLine) - 1) / size_t(kLine) * size_t(kLine);
  if (bytes >= kSlab / 4) return allocate(bytes);
  if (bytes > rest_bytes_) {
    rest_ = allocate(kSlab);
    rest_bytes_ = kSlab;
  }
  auto taken = rest_;
  rest_ = {taken, taken.get() + bytes};
  rest_bytes_ -= bytes;
  return taken;
}

}  // namespace ingle
