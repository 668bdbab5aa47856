#include "cache.h"

#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "errors.h"

namespace ingle {
namespace {

int64_t pages(int64_t positions) { return (positions + kPage - 1) / kPage; }

// Factors are positive. Throws when the product is no 64-bit number.
int64_t multiply(std::initializer_list<int64_t> factors) {
  int64_t product = 1;
  for (const int64_t factor : factors)
    if (__builtin_mul_overflow(product, factor, &product))
      throw MemoryLimitError("The KV cache would be larger than any memory; ask for a smaller context.");
  return product;
}

int64_t bytes_of(KVType type) { return type == KVType::kF16 ? 2 : 4; }

}  // namespace

int64_t Cache::bytes_needed(const Spec& spec, int64_t n_slots, int64_t context, KVType type) {
  if (n_slots < 1 || context < 1 || n_slots >= int64_t{1} << 31 || context >= int64_t{1} << 31)
    throw BackendError("A cache needs at least one slot and one position; came " + std::to_string(n_slots) +
                       " slots of " + std::to_string(context) + " positions.");
  return multiply({static_cast<int64_t>(spec.passes.size()), n_slots, spec.n_kv_heads, pages(context), kPage,
                   spec.head_dim + padded_dim(spec.head_dim), bytes_of(type)});
}

Cache::Cache(const Spec& spec, int64_t n_slots, int64_t context, KVType type)
    : n_passes_(static_cast<int64_t>(spec.passes.size())),
      n_kv_heads_(spec.n_kv_heads),
      head_dim_(spec.head_dim),
      n_slots_(n_slots),
      context_(context),
      type_(type),
      value_bytes_(bytes_of(type)),
      bytes_(bytes_needed(spec, n_slots, context, type)) {
  key_bytes_ = pages(context) * kPage * head_dim_ * value_bytes_;
  region_bytes_ = key_bytes_ + pages(context) * kPage * padded_dim(head_dim_) * value_bytes_;
  // Large zeroed memory comes from the system page by page, as it is written.
  constexpr auto kLine = size_t{64};
  if (bytes_ <= PTRDIFF_MAX - static_cast<int64_t>(kLine))
    memory_.reset(std::calloc(static_cast<size_t>(bytes_) + kLine, 1));
  if (!memory_)
    throw MemoryLimitError("The system refused the " + std::to_string(bytes_ >> 20) + " MiB of a KV cache for " +
                           std::to_string(n_slots) + " x " + std::to_string(context) +
                           " positions; ask for a smaller context.");
  data_ = static_cast<uint8_t*>(memory_.get());
  data_ += -reinterpret_cast<uintptr_t>(data_) % kLine;
}

bool Cache::fits(const Spec& spec) const {
  return n_passes_ == static_cast<int64_t>(spec.passes.size()) && n_kv_heads_ == spec.n_kv_heads &&
         head_dim_ == spec.head_dim;
}

uint8_t* Cache::region(int64_t pass, int64_t slot, int64_t head) const {
  return data_ + ((pass * n_slots_ + slot) * n_kv_heads_ + head) * region_bytes_;
}

void* Cache::keys(int64_t pass, int64_t slot, int64_t head) const { return region(pass, slot, head); }

void* Cache::values(int64_t pass, int64_t slot, int64_t head) const { return region(pass, slot, head) + key_bytes_; }

void Cache::copy(int64_t source, int64_t target, int64_t n) {
  if (source < 0 || source >= n_slots_ || target < 0 || target >= n_slots_ || n < 0 || n > context_)
    throw BackendError("Cannot copy " + std::to_string(n) + " positions from slot " + std::to_string(source) + " to " +
                       std::to_string(target) + ": the cache has " + std::to_string(n_slots_) + " slots of " +
                       std::to_string(context_) + " positions.");
  if (source == target) return;
  const auto key_bytes = static_cast<size_t>(pages(n) * kPage * head_dim_ * value_bytes_);  // whole pages
  const auto value_bytes = static_cast<size_t>(n * padded_dim(head_dim_) * value_bytes_);
  for (int64_t pass = 0; pass < n_passes_; ++pass)
    for (int64_t head = 0; head < n_kv_heads_; ++head) {
      std::memcpy(keys(pass, target, head), keys(pass, source, head), key_bytes);
      std::memcpy(values(pass, target, head), values(pass, source, head), value_bytes);
    }
}

}  // namespace ingle
