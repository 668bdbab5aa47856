// Memory for matrices, on 2 MiB pages where the system offers them.
//
// Decode reads every matrix end to end for every token, and with small pages the translation of addresses is up to a
// third of that. A matrix below 2 MiB gets large pages only together with others: small ones are cut from slabs. A slab
// is freed with the last matrix in it. What is not touched takes no memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace ingle {

// One thread at a time.
class Arena {
 public:
  // `bytes` on a 64-byte line, not initialised. Throws std::bad_alloc.
  std::shared_ptr<uint8_t> take(size_t bytes);

 private:
  std::shared_ptr<uint8_t> rest_;  // of the newest slab
  size_t rest_bytes_ = 0;
};

}  // namespace ingle
