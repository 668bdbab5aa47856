#include "linear.h"

#include <algorithm>
#include <atomic>
#include <memory>
#include <stdexcept>

#include "buffer.h"
#include "kernels.h"
#include "tiles.h"

namespace ingle {
namespace {

// The forms in which kernels take activations.
enum Form : unsigned { kQuantised = 1, kFloat = 2, kTiles = 4 };  // kTiles, twice that, four times: 1 to 3 parts

const PanelMatrix& panels_of(const Matrix& w) { return static_cast<const PanelMatrix&>(w); }

unsigned form_for(const Matrix& w, int64_t m) {
  const Kind kind = panels_of(w).kind();
  const TileKernels* tiles = kernels().tiles;
  if (tiles && m >= tiles->rows_from && w.k > 0 && w.k % kGroup == 0 && tiles->linear[kind])
    return kTiles << (tile_parts(kind) - 1);
  return kind < kPlaneKinds ? kQuantised : kFloat;
}

int64_t up(int64_t x, int64_t unit) { return (x + unit - 1) / unit; }

// Thread `thread`'s share of `count` items, in whole units: [begin, end).
struct Cut {
  Cut(int64_t count, int64_t unit, int thread, int n_threads)
      : begin(up(count, unit) * thread / n_threads * unit),
        end(std::min(count, up(count, unit) * (thread + 1) / n_threads * unit)) {}
  int64_t begin, end;
};

// Panels of w for a thread. Pairs where there are many rows: two panels at a time share the tiles of the rows.
Cut panel_share(const Matrix& w, int64_t m, int thread, int n_threads) {
  return {panels_of(w).panels(), m > 8 ? 2 : 1, thread, n_threads};
}

// Cuts m rows of `units` each evenly over the threads: calls f(row, first unit, end unit) for this thread's pieces.
template <class Function>
void for_each_piece(int64_t m, int64_t units, int thread, int n_threads, Function f) {
  const Cut share(m * units, 1, thread, n_threads);
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
  Buffer quantised, floats, tiles[3];  // tiles of 1, 2 and 3 parts

  // Rows [first, end), the first of which is at x. `share(rows, units, f)` calls f(row, first unit, end unit).
  template <class Share>
  void prepare(const float* x, int64_t ldx, int64_t first, int64_t end, Share share) {
    const Kernels& table = kernels();
    const int64_t groups = k / kGroup, rows = end - first;
    if (forms & kQuantised) {
      auto* out = quantised.as<ActivationGroup>() + first;
      share(rows, groups, [&](int64_t row, int64_t from, int64_t to) {
        table.quantise(x + row * ldx + from * kGroup, to - from, out + from * m + row, m);
      });
    }
    if (forms & kFloat) {
      float* out = floats.data() + first * k;
      share(rows, k, [&](int64_t row, int64_t from, int64_t to) {
        std::copy(x + row * ldx + from, x + row * ldx + to, out + row * k + from);
      });
    }
    for (int64_t parts = 1; parts <= 3; ++parts) {
      if (!(forms & kTiles << (parts - 1))) continue;
      auto* out = tiles[parts - 1].as<uint16_t>();
      share(up(rows, kTileRows), parts * groups, [&](int64_t block, int64_t from, int64_t to) {
        const int64_t row = block * kTileRows;
        for (int64_t group = from; group < to; ++group)
          table.tiles->pack(x + row * ldx + group % groups * kGroup, ldx, std::min(rows - row, kTileRows),
                            group / groups == 1,
                            out + tile_at(first / kTileRows + block, group, up(m, kTileRows), parts * groups));
      });
    }
    prepared.store(true, std::memory_order_relaxed);
  }
};

Input::Input() : impl(new Impl) {}
Input::~Input() { delete impl; }

void Input::reserve(const Matrix& w, int64_t m, int64_t k) {
  if (m < 0 || k != w.k) throw std::invalid_argument("Expected an input as wide as the matrix that reads it.");
  Impl& in = *impl;
  if (in.prepared.load(std::memory_order_relaxed) || in.m != m || in.k != k) in.forms = 0;
  in.prepared.store(false, std::memory_order_relaxed);
  in.m = m;
  in.k = k;
  const unsigned form = form_for(w, m);
  in.forms |= form;
  if (form == kQuantised) in.quantised.reserve<ActivationGroup>(m * (k / kGroup));
  if (form == kFloat) in.floats.reserve(m * k);
  const int64_t parts = tile_parts(panels_of(w).kind());
  if (form >= kTiles) in.tiles[parts - 1].reserve<uint16_t>(up(m, kTileRows) * parts * (k / kGroup) * kTileBlock);
}

void Input::prepare(const float* x, int64_t ldx, int thread, int n_threads) {
  const auto share = [=](int64_t m, int64_t units, auto f) { for_each_piece(m, units, thread, n_threads, f); };
  impl->prepare(x, ldx, 0, impl->m, share);
}

void Input::prepare_rows(const float* x, int64_t ldx, int64_t begin, int64_t end) {
  impl->prepare(x, ldx, begin, end, [](int64_t m, int64_t units, auto f) { for_each_piece(m, units, 0, 1, f); });
}

int64_t Input::row_unit() const { return impl->forms >= kTiles ? kTileRows : 1; }

std::unique_ptr<Matrix> matrix_allocate(Arena& arena, int ggml_type, int64_t n, int64_t k) {
  return std::make_unique<PanelMatrix>(arena, ggml_type, n, k);
}

void matrix_rearrange(Matrix& w, const Source& source, int thread, int n_threads) {
  auto& matrix = static_cast<PanelMatrix&>(w);
  const Cut share(matrix.panels(), 1, thread, n_threads);
  matrix.rearrange(source, share.begin, share.end);
}

Columns columns_of(const Matrix& w, int64_t m, int thread, int n_threads) {
  const Cut share = panel_share(w, m, thread, n_threads);
  return {std::min(share.begin * kPanelRows, w.n), std::min(share.end * kPanelRows, w.n)};
}

void linear(const Matrix& w, const Input& x, float* y, int64_t ldy, bool accumulate, int thread, int n_threads) {
  const PanelMatrix& matrix = panels_of(w);
  const Input::Impl& in = *x.impl;
  if (in.m == 0) return;
  const Kernels& table = kernels();
  const Cut share = panel_share(w, in.m, thread, n_threads);
  const unsigned form = form_for(w, in.m);
  if (form >= kTiles)
    return table.tiles->linear[matrix.kind()](matrix.view(), in.tiles[tile_parts(matrix.kind()) - 1].as<uint16_t>(), in.m,
                                              y, ldy, accumulate, share.begin, share.end);
  const void* rows = form == kFloat ? in.floats.as<void>() : in.quantised.as<void>();
  table.linear[matrix.kind()](matrix.view(), rows, in.m, y, ldy, accumulate, share.begin, share.end);
}

bool can_gate(const Matrix& gate, const Matrix& up, const Matrix& down, int64_t m) {
  return form_for(gate, m) == kTiles && panels_of(gate).kind() == panels_of(up).kind() && gate.n == up.n &&
         gate.k == up.k && up.n == down.k && form_for(down, m) == kTiles;
}

void linear_gated(const Matrix& gate, const Matrix& up, const Input& x, Gate through, Input& out, int thread,
                  int n_threads) {
  const Input::Impl& in = *x.impl;
  const Cut share = panel_share(up, in.m, thread, n_threads);
  const Kind kind = panels_of(up).kind();
  kernels().tiles->gated[kind](panels_of(gate).view(), panels_of(up).view(), in.tiles[0].as<uint16_t>(), in.m,
                               through, out.impl->tiles[0].as<uint16_t>(), share.begin,
                               share.end);
  if (thread == 0) out.impl->prepared.store(true, std::memory_order_relaxed);
}

}  // namespace ingle
