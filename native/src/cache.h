// Keys and values of several sequences (slots), for every pass: one reservation that the system fills with memory page
// by page as positions are written.
//
// For each (pass, slot, key/value head) there is one region: pages of keys, then pages of values (see vector_ops.h).
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "spec.h"

namespace ingle {

class Cache {
 public:
  // Throws BackendError for sizes below one, MemoryLimitError where the address space or the system refuses.
  Cache(const Spec& spec, int64_t n_slots, int64_t context, KVType type);

  // Bytes that such a cache takes when it is full. Throws as the constructor does.
  static int64_t bytes_needed(const Spec& spec, int64_t n_slots, int64_t context, KVType type);

  int64_t n_slots() const { return n_slots_; }
  int64_t context() const { return context_; }
  int64_t bytes() const { return bytes_; }
  KVType type() const { return type_; }
  bool fits(const Spec& spec) const;

  void* keys(int64_t pass, int64_t slot, int64_t head) const;
  void* values(int64_t pass, int64_t slot, int64_t head) const;

  // Slot `target` begins with the first n positions of `source`. Throws BackendError for what does not exist.
  void copy(int64_t source, int64_t target, int64_t n);

 private:
  uint8_t* region(int64_t pass, int64_t slot, int64_t head) const;

  int64_t n_passes_, n_kv_heads_, head_dim_, n_slots_, context_;
  KVType type_;
  int64_t value_bytes_;   // of one number
  int64_t key_bytes_;     // of a region's keys
  int64_t region_bytes_;
  int64_t bytes_;
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> memory_;
  uint8_t* data_;  // the first line in it
};

}  // namespace ingle
