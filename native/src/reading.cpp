#include "reading.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "errors.h"
#include "ggml_blocks.h"

namespace ingle {
namespace {

// What a thread reads into: one large page, because what a disk brings into many small ones it brings more slowly (a
// virtual disk at half the speed). It stays for the next piece, unless it is larger than pieces are.
class Staging {
 public:
  uint8_t* reserve(size_t bytes) {
    if (!room_ || room_->bytes() < bytes) {
      room_.reset();  // first, so that there are never two
      room_ = std::make_unique<Room>(std::max(bytes, kUsual));
    }
    return room_->data();
  }
  void trim() {
    if (room_ && room_->bytes() > kUsual) room_.reset();
  }

 private:
  static constexpr size_t kUsual = Room::kLargePage;
  std::unique_ptr<Room> room_;
};

thread_local Staging staging;

// Adds what passes in its lifetime.
class Stopwatch {
 public:
  explicit Stopwatch(std::atomic<int64_t>& total) : total_(total) {}
  ~Stopwatch() {
    const auto passed = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - began_);
    total_.fetch_add(passed.count(), std::memory_order_relaxed);
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::atomic<int64_t>& total_;
  const Clock::time_point began_ = Clock::now();
};

class RowsInFile final : public Matrix {
 public:
  explicit RowsInFile(Stored from) : from_(std::move(from)), kind_(kind_of(from_.ggml_type)) {
    n = from_.n;
    k = from_.k;
  }
  size_t bytes() const override { return 0; }
  void row(int64_t r, float* out) const override {
    const size_t row_bytes = from_.bytes / static_cast<size_t>(n), rows_bytes = kPanelRows * row_bytes;
    const size_t room = DirectFile::room_for(row_bytes);
    uint8_t* const read = staging.reserve(room + rows_bytes + panels_bytes(from_.ggml_type, kPanelRows, k));
    uint8_t *const rows = read + room, *const panel = rows + rows_bytes;
    std::memset(rows, 0, rows_bytes);
    std::memcpy(rows, from_.file->read(from_.offset + r * static_cast<int64_t>(row_bytes), row_bytes, read), row_bytes);
    write_panel(kind_, rows, row_bytes, panel);
    read_row(kind_, panel, 0, k, out);
    staging.trim();
  }

 private:
  const Stored from_;
  const Kind kind_;
};

}  // namespace

Reading::Reading(Stored from, std::shared_ptr<Room> room, size_t at, size_t piece) : from_(std::move(from)) {
  check_matrix(from_.ggml_type, from_.n, from_.k, from_.bytes);
  const size_t need = panels_bytes(from_.ggml_type, from_.n, from_.k);
  if (at % kVector != 0 || at > room->bytes() || need > room->bytes() - at)
    throw BackendError("A matrix of " + std::to_string(need) + " bytes was to be laid at byte " + std::to_string(at) +
                       " of a room of " + std::to_string(room->bytes()) + "; expected it inside, on a multiple of 64.");
  uint8_t* const data = room->data() + at;
  matrix_ = std::make_shared<PanelMatrix>(std::shared_ptr<uint8_t>(std::move(room), data), from_.ggml_type, from_.n,
                                          from_.k);
  panel_rows_bytes_ = kPanelRows * (from_.bytes / static_cast<size_t>(from_.n));
  // As few as can be, and equal: a short one at the end would cost a call to the disk as well.
  const int64_t most = static_cast<int64_t>(std::max<size_t>(1, piece / panel_rows_bytes_)), panels = matrix_->panels();
  const int64_t fewest = (panels + most - 1) / most;
  step_ = (panels + fewest - 1) / fewest;
  pieces_ = (panels + step_ - 1) / step_;
}

void Reading::help() {
  try {
    while (!stopped_.load(std::memory_order_relaxed)) {
      const int64_t piece = next_.fetch_add(1, std::memory_order_relaxed);
      if (piece >= pieces_) break;
      place(piece);
      placed_.fetch_add(1, std::memory_order_release);
    }
  } catch (...) {
    cancel();
    staging.trim();
    throw;
  }
  staging.trim();
}

void Reading::place(int64_t piece) {
  const int64_t begin = piece * step_, end = std::min(begin + step_, matrix_->panels());
  const size_t at = static_cast<size_t>(begin) * panel_rows_bytes_;
  const size_t whole = static_cast<size_t>(end - begin) * panel_rows_bytes_, n = std::min(whole, from_.bytes - at);
  uint8_t* rows = staging.reserve(DirectFile::room_for(whole));
  {
    const Stopwatch watch(read_ns_);
    rows = from_.file->read(from_.offset + static_cast<int64_t>(at), n, rows);
  }
  const Stopwatch watch(arrange_ns_);
  std::memset(rows + n, 0, whole - n);  // the last panel is filled up
  matrix_->write(rows, begin, end);
}

SharedMatrix Reading::matrix() const {
  if (!done()) throw BackendError("A matrix was asked for before all of it had been read.");
  return matrix_;
}

SharedMatrix rows_in_file(Stored from) {
  check_matrix(from.ggml_type, from.n, from.k, from.bytes);
  return std::make_shared<RowsInFile>(std::move(from));
}

}  // namespace ingle
