// A matrix on its way from a file into a room, by the hands of several threads; and rows that stay in the file.
#pragma once
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "blocks.h"
#include "direct_file.h"
#include "planes.h"
#include "room.h"

namespace ingle {

// Where a matrix lies in a file: n rows of k values in the GGML layout, `bytes` from `offset`.
struct Stored {
  int ggml_type;
  int64_t n, k;
  std::shared_ptr<const DirectFile> file;
  int64_t offset;
  size_t bytes;
};

class Reading {
 public:
  // Bytes of the file that a thread reads, then rearranges. Half as many cost a tenth more time of a processor; twice as
  // many are no faster with four threads.
  static constexpr size_t kPiece = 1 << 20;

  // Throws BackendError where the bytes are not those of such a matrix, or it does not fit into the room at byte `at`,
  // a multiple of 64; UnsupportedError for a type or a k without kernels. Nothing is read or written yet.
  Reading(Stored from, std::shared_ptr<Room> room, size_t at, size_t piece = kPiece);

  // Reads pieces and rearranges them until none is left to begin; several threads may. After an error, which goes
  // through, no further piece is begun.
  void help();
  void cancel() { stopped_.store(true, std::memory_order_relaxed); }
  bool done() const { return placed_.load(std::memory_order_acquire) == pieces_; }
  // It keeps the room. Throws BackendError unless done.
  SharedMatrix matrix() const;

  // Seconds, added up over the threads.
  double read_s() const { return 1e-9 * static_cast<double>(read_ns_.load(std::memory_order_relaxed)); }
  double arrange_s() const { return 1e-9 * static_cast<double>(arrange_ns_.load(std::memory_order_relaxed)); }

 private:
  void place(int64_t piece);

  const Stored from_;
  std::shared_ptr<PanelMatrix> matrix_;
  size_t panel_rows_bytes_ = 0;  // of 16 rows in the file
  int64_t step_ = 1, pieces_ = 0;  // a piece is so many panels
  std::atomic<int64_t> next_{0}, placed_{0}, read_ns_{0}, arrange_ns_{0};
  std::atomic<bool> stopped_{false};
};

// A matrix for its rows alone, each read when it is asked for: it multiplies nothing. Throws as Reading does; `row` also
// what DirectFile throws.
SharedMatrix rows_in_file(Stored from);

}  // namespace ingle
