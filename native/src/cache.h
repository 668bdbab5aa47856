// Keys and values of several sequences (slots), for every pass: one reservation that the system fills with memory as
// positions are written.
//
// A slot is a row of pages, each for kPage positions: [pass][key/value head][keys, values] (see vector_ops.h). So what
// a prompt takes is contiguous, and lies on large pages of the system.
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

  // Keys and values of the page of a position; page_stride() bytes from that of the page after it.
  uint8_t* page(int64_t pass, int64_t slot, int64_t head, int64_t position = 0) const;
  int64_t page_stride() const { return n_passes_ * n_kv_heads_ * unit_bytes_; }

  // Slot `target` begins with the first n positions of `source`. Throws BackendError for what does not exist.
  void copy(int64_t source, int64_t target, int64_t n);

 private:
  int64_t n_passes_, n_kv_heads_, head_dim_, n_slots_, context_;
  KVType type_;
  int64_t unit_bytes_;  // keys and values of one page of one head
  int64_t bytes_;
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  std::unique_ptr<void, Free> memory_;
  uint8_t* data_;  // the first line in it
};

}  // namespace ingle
