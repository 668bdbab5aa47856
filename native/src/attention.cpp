// The attention verb.
#include <algorithm>

#include "decoder.h"
#include "errors.h"

namespace ingle {

// Norms and turns heads [begin, end) of row `row`, keys first, then queries; keys go to the cache with their values.
void Decoder::turn_and_store(const AttentionBlock& block, int64_t pass, int64_t row, int64_t begin, int64_t end) {
  const int64_t dim = spec_.head_dim, n_kv = spec_.n_kv_heads;
  const int index = spec_.passes[static_cast<size_t>(pass)].rope;
  const auto turn = [&](float* head, const Floats& weight, int64_t which) {
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
  const auto i = static_cast<size_t>(row);
  for (int64_t head = begin; head < end; ++head) {
    if (head >= n_kv) {
      turn(q_.data() + (row * spec_.n_heads + head - n_kv) * dim, block.q_norm, head - n_kv);
      continue;
    }
    float* k = k_.data() + (row * n_kv + head) * dim;
    turn(k, block.k_norm, head);
    Cache& cache = *plan_.cache;
    ops_.store(cache.type(), k, v_.data() + (row * n_kv + head) * dim,
               cache.page(pass, plan_.slots[i], head, plan_.positions[i]), plan_.positions[i] % kPage, dim);
  }
}

// Takes tiles until there are none: head by head, and of a head the longest first. Whoever attends turns the queries,
// and where rows stand apart stores their keys and values; otherwise that has been done before, by all threads.
void Decoder::attend(const AttentionBlock& block, int64_t pass, int thread) {
  const int64_t dim = spec_.head_dim, group = spec_.group(), n_kv = spec_.n_kv_heads;
  const auto n_tiles = static_cast<int64_t>(plan_.tiles.size());
  const int64_t heads = plan_.heads_of_item, parts = (group + heads - 1) / heads;
  const int64_t n_items = n_kv * parts * n_tiles;
  const int64_t window = spec_.passes[static_cast<size_t>(pass)].window;
  const auto tile_of = [&](int64_t item) -> const RowPlan::Tile& {
    return plan_.tiles[static_cast<size_t>(n_tiles - 1 - item % n_tiles)];
  };
  const auto first_page = [&](int64_t item) -> const uint8_t* {
    if (item >= n_items) return nullptr;
    const auto row = static_cast<size_t>(tile_of(item).row);
    const int64_t oldest = window > 0 ? std::max<int64_t>(0, plan_.positions[row] - window + 1) : 0;
    return plan_.cache->page(pass, plan_.slots[row], item / n_tiles / parts, oldest);
  };
  AttentionTile tile;
  tile.q_stride = spec_.n_heads * dim;
  tile.head_dim = dim;
  tile.window = window;
  tile.scale = spec_.score_scale;
  tile.softcap = spec_.attention_softcap;
  tile.scratch = own_[static_cast<size_t>(thread)].scratch.reserve(attention_scratch_floats(dim));
  for (int64_t item; (item = next_tile_.fetch_add(1, std::memory_order_relaxed)) < n_items;) {
    const int64_t part = item / n_tiles, kv_head = part / parts;
    const RowPlan::Tile& rows = tile_of(item);
    const auto first = static_cast<size_t>(rows.row);
    const int64_t head = kv_head * group + part % parts * heads;
    const int64_t offset = (rows.row * spec_.n_heads + head) * dim;
    tile.q = q_.data() + offset;
    tile.out = heads_.data() + offset;
    tile.n_rows = rows.n_rows;
    tile.many = rows.n_rows * group >= 16;
    tile.n_heads = std::min(heads, (kv_head + 1) * group - head);
    tile.pages = plan_.cache->page(pass, plan_.slots[first], kv_head);
    tile.page_stride = plan_.cache->page_stride();
    tile.next = first_page(item + n_threads());
    tile.position = plan_.positions[first];
    tile.slopes = spec_.alibi_slopes.empty() ? nullptr : spec_.alibi_slopes.data() + head;
    if (plan_.apart) turn_and_store(block, pass, rows.row, kv_head, kv_head + 1);
    for (int64_t i = rows.row; i < rows.row + rows.n_rows; ++i)
      turn_and_store(block, pass, i, n_kv + head, n_kv + head + tile.n_heads);
    ops_.attend(plan_.cache->type(), tile);
  }
}

void Decoder::check(const AttentionBlock& block) const {
  if (block.q.matrix->n != spec_.n_heads * spec_.head_dim || block.k.matrix->n != spec_.n_kv_heads * spec_.head_dim ||
      block.o.matrix->n != spec_.n_embd)
    throw BackendError("The attention block was made for another model.");
}

void Decoder::reserve_attention(const AttentionBlock& block) {
  const int64_t wide = spec_.n_heads * spec_.head_dim, narrow = spec_.n_kv_heads * spec_.head_dim;
  q_.reserve(n_ * wide);
  k_.reserve(n_ * narrow);
  v_.reserve(n_ * narrow);
  heads_.reserve(n_ * wide);
  reserve_inputs({&block.q, &block.k, &block.v}, spec_.n_embd, n_);
  reserve_inner(block.o, wide, n_);
  next_tile_.store(0, std::memory_order_relaxed);
}

void Decoder::attention_part(const AttentionBlock& block, Pending pending, int64_t pass, int thread, int n_threads) {
  const int64_t wide = spec_.n_heads * spec_.head_dim, narrow = spec_.n_kv_heads * spec_.head_dim;
  const Input& in = normed_input(block.norm, pending, {&block.q, &block.k, &block.v}, thread, n_threads);
  multiply(block.q, in, n_, q_.data(), wide, false, thread, n_threads);
  multiply(block.k, in, n_, k_.data(), narrow, false, thread, n_threads);
  multiply(block.v, in, n_, v_.data(), narrow, false, thread, n_threads);
  team_.barrier();
  keep_joined(thread);
  if (!plan_.apart) {
    const Share items(n_ * spec_.n_kv_heads, thread, n_threads);  // head by head, so that pages have one writer
    for (int64_t item = items.begin; item < items.end; ++item)
      turn_and_store(block, pass, item % n_, item / n_, item / n_ + 1);
    team_.barrier();
  }
  attend(block, pass, thread);
  team_.barrier();
  if (thread == 0) next_tile_.store(0, std::memory_order_relaxed);  // for the next pass, some barriers from here
  const Input& heads = inner_input(heads_.data(), wide, block.o, thread, n_threads);
  multiply(block.o, heads, n_, delta_, spec_.n_embd, false, thread, n_threads);
}

void Decoder::attention(const AttentionBlock& block, const State& state, int64_t pass) {
  const std::lock_guard lock(mutex_);
  check(state, pass);
  check(block);
  reserve_attention(block);
  team_.run([&](int thread, int n_threads) { attention_part(block, pending_, pass, thread, n_threads); });
  keep_pending(block.post_norm);
}

}  // namespace ingle
