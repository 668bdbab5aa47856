#include "cache.h"

#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "errors.h"
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace ingle {
namespace {

constexpr int64_t kHugePage = 2 << 20;

int64_t pages(int64_t positions) { return (positions + kPage - 1) / kPage; }

// Factors are positive. Throws when the product is no 64-bit number.
int64_t multiply(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (const int64_t factor : factors)
    if (__builtin_mul_overflow(product, factor, &product))
      throw MemoryLimitError("The KV cache would be larger than any memory; ask for a smaller context.");
  return product;
}

int64_t unit_bytes(KVType type, int64_t head_dim) {
  return key_page_bytes(type, head_dim) + value_page_bytes(type, head_dim);
}

}  // namespace

int64_t Cache::bytes_needed(const Spec& spec, int64_t n_slots, int64_t context, KVType type) {
  if (n_slots < 1 || context < 1 || n_slots >= int64_t{1} << 31 || context >= int64_t{1} << 31)
    throw BackendError("A cache needs at least one slot and one position; came " + std::to_string(n_slots) +
                       " slots of " + std::to_string(context) + " positions.");
  return multiply({static_cast<int64_t>(spec.passes.size()), n_slots, spec.n_kv_heads, pages(context),
                   unit_bytes(type, spec.head_dim)});
}

Cache::Cache(const Spec& spec, int64_t n_slots, int64_t context, KVType type)
    : n_passes_(static_cast<int64_t>(spec.passes.size())),
      n_kv_heads_(spec.n_kv_heads),
      head_dim_(spec.head_dim),
      n_slots_(n_slots),
      context_(context),
      type_(type),
      unit_bytes_(unit_bytes(type, spec.head_dim)),
      bytes_(bytes_needed(spec, n_slots, context, type)) {
  // Large zeroed memory comes from the system as it is written.
  const size_t line = bytes_ >= kHugePage ? kHugePage : 64, bytes = static_cast<size_t>(bytes_);
  if (bytes_ <= PTRDIFF_MAX - kHugePage) memory_.reset(std::calloc(bytes + line, 1));
  if (!memory_)
    throw MemoryLimitError("The system refused the " + std::to_string(bytes_ >> 20) + " MiB of a KV cache for " +
                           std::to_string(n_slots) + " x " + std::to_string(context) +
                           " positions; ask for a smaller context.");
  data_ = static_cast<uint8_t*>(memory_.get());
  data_ += -reinterpret_cast<uintptr_t>(data_) % line;
#if defined(MADV_HUGEPAGE)
  (void)madvise(data_, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);  // advice only: addresses are found faster
#endif
}

bool Cache::fits(const Spec& spec) const {
  return n_passes_ == static_cast<int64_t>(spec.passes.size()) && n_kv_heads_ == spec.n_kv_heads &&
         head_dim_ == spec.head_dim;
}

uint8_t* Cache::page(int64_t pass, int64_t slot, int64_t head, int64_t position) const {
  return data_ + (slot * pages(context_) + position / kPage) * page_stride() + (pass * n_kv_heads_ + head) * unit_bytes_;
}

void Cache::copy(int64_t source, int64_t target, int64_t n) {
  if (source < 0 || source >= n_slots_ || target < 0 || target >= n_slots_ || n < 0 || n > context_)
    throw BackendError("Cannot copy " + std::to_string(n) + " positions from slot " + std::to_string(source) + " to " +
                       std::to_string(target) + ": the cache has " + std::to_string(n_slots_) + " slots of " +
                       std::to_string(context_) + " positions.");
  if (source == target || n == 0) return;
  std::memcpy(page(0, target, 0), page(0, source, 0), static_cast<size_t>(pages(n) * page_stride()));
}

}  // namespace ingle
