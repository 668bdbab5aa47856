#include "linear.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <stdexcept>

#include "kernels.h"

namespace ingle {
namespace {

// Memory on a 64-byte line that grows and does not keep its contents.
class Buffer {
 public:
  ~Buffer() { release(); }
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  void reserve(size_t bytes) {
    if (bytes <= size_) return;
    release();
    data_ = ::operator new(bytes, std::align_val_t(kVector));
    size_ = bytes;
  }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void release() {
    if (data_) ::operator delete(data_, std::align_val_t(kVector));
    data_ = nullptr;
    size_ = 0;
  }
  void* data_ = nullptr;
  size_t size_ = 0;
};

// The forms in which kernels take activations.
enum Form : unsigned { kQuantised = 1, kFloat = 2, kTiles = 4 };

Form form_for(Kind kind, int64_t m) {
  if (kind >= kPlaneKinds) return kFloat;
  const Kernels& table = kernels();
  return table.pack_tiles && m >= table.tiles_from ? kTiles : kQuantised;
}

int64_t up(int64_t x, int64_t unit) { return (x + unit - 1) / unit; }

// Thread `thread`'s share of `count` items: [begin, end).
struct Share {
  Share(int64_t count, int thread, int n_threads)
      : begin(count * thread / n_threads), end(count * (thread + 1) / n_threads) {}
  int64_t begin, end;
};

// Cuts m rows of `units` each evenly over the threads: calls f(row, first unit, end unit) for this thread's pieces.
template <class Function>
void for_each_piece(int64_t m, int64_t units, int thread, int n_threads, Function f) {
  const Share share(m * units, thread, n_threads);
  for (int64_t at = share.begin; at < share.end;) {
    const int64_t row = at / units;
    const int64_t end = std::min(share.end, (row + 1) * units);
    f(row, at - row * units, end - row * units);
    at = end;
  }
}

}  // namespace

struct Input::Impl {
  int64_t m = 0, k = 0;
  unsigned forms = 0;
  std::atomic<bool> prepared{false};  // the next reserve begins anew
  Buffer quantised, floats, tiles;
};

Input::Input() : impl(new Impl) {}
Input::~Input() { delete impl; }

void Input::reserve(const Matrix& w, int64_t m, int64_t k) {
  if (m < 0 || k != w.k) throw std::invalid_argument("Expected an input as wide as the matrix that reads it.");
  Impl& in = *impl;
  if (in.prepared || in.m != m || in.k != k) in.forms = 0;
  in.prepared = false;
  in.m = m;
  in.k = k;
  const Form form = form_for(static_cast<const PanelMatrix&>(w).kind(), m);
  in.forms |= form;
  switch (form) {
    case kQuantised: in.quantised.reserve(size_t(m * (k / kGroup)) * sizeof(ActivationGroup)); break;
    case kFloat: in.floats.reserve(size_t(m * k) * sizeof(float)); break;
    case kTiles: in.tiles.reserve(size_t(up(m, kTileRows) * (k / kGroup) * kTileBlock) * sizeof(uint16_t)); break;
  }
}

void Input::prepare(const float* x, int64_t ldx, int thread, int n_threads) {
  Impl& in = *impl;
  const Kernels& table = kernels();
  const int64_t groups = in.k / kGroup;
  if (in.forms & kQuantised) {
    auto* out = in.quantised.as<ActivationGroup>();
    for_each_piece(in.m, groups, thread, n_threads, [&](int64_t row, int64_t begin, int64_t end) {
      table.quantise(x + row * ldx + begin * kGroup, end - begin, out + row * groups + begin);
    });
  }
  if (in.forms & kFloat) {
    auto* out = in.floats.as<float>();
    for_each_piece(in.m, in.k, thread, n_threads, [&](int64_t row, int64_t begin, int64_t end) {
      std::copy(x + row * ldx + begin, x + row * ldx + end, out + row * in.k + begin);
    });
  }
  if (in.forms & kTiles) {
    auto* out = in.tiles.as<uint16_t>();
    for_each_piece(up(in.m, kTileRows), groups, thread, n_threads, [&](int64_t mb, int64_t begin, int64_t end) {
      for (int64_t kt = begin; kt < end; ++kt) table.pack_tiles(x, ldx, in.m, in.k, mb, kt, out);
    });
  }
  if (thread == 0) in.prepared.store(true, std::memory_order_relaxed);
}

std::unique_ptr<Matrix> matrix_allocate(Arena& arena, int ggml_type, int64_t n, int64_t k) {
  return std::make_unique<PanelMatrix>(arena, ggml_type, n, k);
}

void matrix_rearrange(Matrix& w, const Source& source, int thread, int n_threads) {
  auto& matrix = static_cast<PanelMatrix&>(w);
  const Share share(matrix.panels(), thread, n_threads);
  matrix.rearrange(source, share.begin, share.end);
}

void linear(const Matrix& w, const Input& x, float* y, int64_t ldy, bool accumulate, int thread, int n_threads) {
  const auto& matrix = static_cast<const PanelMatrix&>(w);
  const Input::Impl& in = *x.impl;
  const Kernels& table = kernels();
  if (in.m == 0) return;
  const Form form = form_for(matrix.kind(), in.m);
  if (form == kTiles) {
    // Two panels at a time share the tiles of the rows.
    const Share pairs(up(matrix.panels(), 2), thread, n_threads);
    const int64_t end = std::min(2 * pairs.end, matrix.panels());
    table.linear_tiles[matrix.kind()](matrix.view(), in.tiles.as<uint16_t>(), in.m, y, ldy, accumulate, 2 * pairs.begin,
                                      end);
    return;
  }
  const Share share(matrix.panels(), thread, n_threads);
  const void* rows = form == kFloat ? in.floats.as<void>() : in.quantised.as<void>();
  table.linear[matrix.kind()](matrix.view(), rows, in.m, y, ldy, accumulate, share.begin, share.end);
}

}  // namespace ingle
