// The attention verb.
#include <algorithm>

#include "decoder.h"
#include "errors.h"

namespace ingle {
namespace {

// Where a matrix has a bias, its output begins with it and the product is added.
void begin_with(const Floats& bias, float* y) { std::copy(bias.begin(), bias.end(), y); }

void multiply(const Linear& w, const Input& input, float* y, int64_t ldy, int thread, int n_threads) {
  linear(*w.matrix, input, y, ldy, !w.bias.empty(), thread, n_threads);
}

}  // namespace

// Norms and turns the heads of q and k, and writes k and v to the cache.
void Decoder::turn_and_store(const AttentionBlock& block, int64_t pass, int thread, int n_threads) {
  const int64_t dim = spec_.head_dim, n_kv = spec_.n_kv_heads;
  const int index = spec_.passes[static_cast<size_t>(pass)].rope;
  const auto turn = [&](float* head, const Floats& weight, int64_t which, int64_t row) {
    if (!weight.empty()) {
      const float* w = weight.data() + (static_cast<int64_t>(weight.size()) == dim ? 0 : which * dim);
      ops_.norm(spec_.norm, head, w, nullptr, spec_.norm_eps, head, dim);
    }
    if (index < 0) return;
    const auto r = static_cast<size_t>(index);
    const auto pairs = static_cast<int64_t>(spec_.ropes[r].frequencies.size());
    ops_.rotate(head, plan_.cosines[r].data() + row * pairs, plan_.sines[r].data() + row * pairs, pairs,
                spec_.ropes[r].half);
  };
  const Share items((spec_.n_heads + n_kv) * n_, thread, n_threads);  // head by head, so that pages have one writer
  for (int64_t item = items.begin; item < items.end; ++item) {
    const int64_t head = item / n_, row = item % n_;
    if (head >= n_kv) {
      turn(q_.data() + (row * spec_.n_heads + head - n_kv) * dim, block.q_norm, head - n_kv, row);
      continue;
    }
    const auto i = static_cast<size_t>(row);
    float* k = k_.data() + (row * n_kv + head) * dim;
    turn(k, block.k_norm, head, row);
    Cache& cache = *plan_.cache;
    ops_.store(cache.type(), k, v_.data() + (row * n_kv + head) * dim, cache.keys(pass, plan_.slots[i], head),
               cache.values(pass, plan_.slots[i], head), plan_.positions[i], dim);
  }
}

// Takes tiles until there are none: head by head, and of a head the longest first.
void Decoder::attend(int64_t pass, int thread) {
  const int64_t dim = spec_.head_dim, group = spec_.group(), n_kv = spec_.n_kv_heads;
  const auto n_tiles = static_cast<int64_t>(plan_.tiles.size());
  // Heads of a group share what they read; they part only where there would be less work than threads.
  const int64_t most = std::min(group, kTileQueries);
  const int64_t heads = n_kv * n_tiles >= n_threads() ? most : std::clamp<int64_t>(group * n_kv * n_tiles / n_threads(), 1, most);
  const int64_t parts = (group + heads - 1) / heads;
  const int64_t n_items = n_kv * parts * n_tiles;
  AttentionTile tile;
  tile.q_stride = spec_.n_heads * dim;
  tile.head_dim = dim;
  tile.window = spec_.passes[static_cast<size_t>(pass)].window;
  tile.scale = spec_.score_scale;
  tile.softcap = spec_.attention_softcap;
  tile.scratch = scratch_[static_cast<size_t>(thread)].data();
  for (int64_t item; (item = next_tile_.fetch_add(1, std::memory_order_relaxed)) < n_items;) {
    const int64_t part = item / n_tiles, kv_head = part / parts;
    const RowPlan::Tile& rows = plan_.tiles[static_cast<size_t>(n_tiles - 1 - item % n_tiles)];
    const auto first = static_cast<size_t>(rows.row);
    const int64_t head = kv_head * group + part % parts * heads;
    const int64_t offset = (rows.row * spec_.n_heads + head) * dim;
    tile.q = q_.data() + offset;
    tile.out = heads_.data() + offset;
    tile.n_rows = rows.n_rows;
    tile.many = rows.n_rows * group >= 16;
    tile.n_heads = std::min(heads, (kv_head + 1) * group - head);
    tile.keys = plan_.cache->keys(pass, plan_.slots[first], kv_head);
    tile.values = plan_.cache->values(pass, plan_.slots[first], kv_head);
    tile.position = plan_.positions[first];
    tile.slopes = spec_.alibi_slopes.empty() ? nullptr : spec_.alibi_slopes.data() + head;
    ops_.attend(plan_.cache->type(), tile);
  }
}

void Decoder::attention(const AttentionBlock& block, const State& state, int64_t pass) {
  const std::lock_guard lock(mutex_);
  check(state, pass);
  const int64_t width = spec_.n_embd, wide = spec_.n_heads * spec_.head_dim, narrow = spec_.n_kv_heads * spec_.head_dim;
  if (block.q.matrix->n != wide || block.k.matrix->n != narrow || block.o.matrix->n != width)
    throw BackendError("The attention block was made for another model.");
  float* normed = normed_.reserve(n_ * width);
  float *q = q_.reserve(n_ * wide), *k = k_.reserve(n_ * narrow), *v = v_.reserve(n_ * narrow);
  float* heads = heads_.reserve(n_ * wide);
  for (Buffer& scratch : scratch_) scratch.reserve(attention_scratch_floats(spec_.head_dim));
  for (const Linear* w : {&block.q, &block.k, &block.v}) input_.reserve(*w->matrix, n_, width);
  inner_input_.reserve(*block.o.matrix, n_, wide);
  next_tile_.store(0, std::memory_order_relaxed);

  team_.run([&](int thread, int n_threads) {
    const Share rows(n_, thread, n_threads);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      join(i);
      norm(block.norm, x_ + i * width, normed + i * width);
      begin_with(block.q.bias, q + i * wide);
      begin_with(block.k.bias, k + i * narrow);
      begin_with(block.v.bias, v + i * narrow);
      begin_with(block.o.bias, delta_ + i * width);
    }
    team_.barrier();
    input_.prepare(normed, width, thread, n_threads);
    team_.barrier();
    multiply(block.q, input_, q, wide, thread, n_threads);
    multiply(block.k, input_, k, narrow, thread, n_threads);
    multiply(block.v, input_, v, narrow, thread, n_threads);
    team_.barrier();
    turn_and_store(block, pass, thread, n_threads);
    team_.barrier();
    attend(pass, thread);
    team_.barrier();
    inner_input_.prepare(heads, wide, thread, n_threads);
    team_.barrier();
    multiply(block.o, inner_input_, delta_, width, thread, n_threads);
  });
  pending_ = true;
  pending_norm_ = block.post_norm;
}

}  // namespace ingle
