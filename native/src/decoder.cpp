// Loading, the plan of a call's rows, embed and logits. Attention and feed-forward have files of their own.
#include "decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "errors.h"
#include "planes.h"

namespace ingle {
namespace {

Spec checked(Spec spec) {
  spec.check();
  return spec;
}

int checked_threads(int n) {
  if (n < 1 || n > 1024) throw BackendError("Expected 1 to 1024 threads; came " + std::to_string(n) + ".");
  return n;
}

uint64_t new_id() {
  static std::atomic<uint64_t> last{0};
  return ++last;
}

std::string range(const char* what, int64_t value, int64_t limit) {
  return std::string(what) + " " + std::to_string(value) + " does not exist; expected 0 to " +
         std::to_string(limit - 1) + ".";
}

}  // namespace

Decoder::Decoder(Spec spec, int n_threads)
    : spec_(checked(std::move(spec))),
      ops_(vector_ops()),
      team_(checked_threads(n_threads)),
      own_(static_cast<size_t>(n_threads)) {
  plan_.cosines.resize(spec_.ropes.size());
  plan_.sines.resize(spec_.ropes.size());
}

SharedMatrix Decoder::load_matrix(int ggml_type, int64_t n, int64_t k, const Source& source, size_t n_bytes) {
  check_matrix(ggml_type, n, k, n_bytes);
  std::shared_ptr<Matrix> matrix;
  {
    const std::lock_guard lock(arena_mutex_);
    matrix = matrix_allocate(arena_, ggml_type, n, k);
  }
  std::unique_lock lock(mutex_, std::try_to_lock);
  if (lock)
    team_.run([&](int thread, int n_threads) { matrix_rearrange(*matrix, source, thread, n_threads); });
  else
    matrix_rearrange(*matrix, source, 0, 1);
  return matrix;
}

void Decoder::check(const State& state, int64_t pass) const {
  if (state.id != id_ || id_ == 0)
    throw BackendError("A state lives until the next embed of its backend; this one is past, or another backend's.");
  const auto n_passes = static_cast<int64_t>(spec_.passes.size());
  if (pass < 0 || pass >= n_passes) throw BackendError(range("Pass", pass, n_passes));
  if (next_group_ < groups_.size())
    throw BackendError("A mixture still lacks experts that its rows chose; expected these before anything else.");
}

void Decoder::plan_rows(const int32_t* slots, const int32_t* positions, int64_t n, std::shared_ptr<Cache> cache) {
  if (n < 1) throw BackendError("No rows were given; expected at least one.");
  if (!cache || !cache->fits(spec_)) throw BackendError("The cache was made for another model.");
  std::vector<bool> begun(static_cast<size_t>(cache->n_slots()));
  for (int64_t i = 0; i < n; ++i) {
    if (slots[i] < 0 || slots[i] >= cache->n_slots()) throw BackendError(range("Slot", slots[i], cache->n_slots()));
    if (positions[i] < 0 || positions[i] >= cache->context())
      throw BackendError(range("Position", positions[i], cache->context()));
    const bool goes_on = i > 0 && slots[i] == slots[i - 1];
    if (goes_on ? positions[i] != positions[i - 1] + 1 : begun[static_cast<size_t>(slots[i])])
      throw BackendError("Rows of one slot must stand together, in rising positions without gaps.");
    begun[static_cast<size_t>(slots[i])] = true;
  }

  plan_.slots.assign(slots, slots + n);
  plan_.positions.assign(positions, positions + n);
  plan_.cache = std::move(cache);
  const int64_t group = spec_.group(), most = std::min(group, kTileQueries);
  plan_.tiles.clear();
  plan_.apart = true;
  for (int64_t i = 0; i < n; ++i) {
    const bool goes_on = i > 0 && slots[i] == slots[i - 1];
    if (goes_on) plan_.apart = false;
    if (goes_on && plan_.tiles.back().n_rows < kTileQueries / most)
      ++plan_.tiles.back().n_rows;
    else
      plan_.tiles.push_back({i, 1});
  }
  // Heads of a group share what they read; they part only where there would be less work than threads.
  const int64_t items = spec_.n_kv_heads * static_cast<int64_t>(plan_.tiles.size());
  plan_.heads_of_item = items >= n_threads() ? most : std::clamp<int64_t>(group * items / n_threads(), 1, most);
  if (plan_.heads_of_item < group) plan_.apart = false;
  for (size_t r = 0; r < spec_.ropes.size(); ++r) {
    const Rope& rope = spec_.ropes[r];
    const auto pairs = static_cast<int64_t>(rope.frequencies.size());
    plan_.cosines[r].reserve(n * pairs);
    plan_.sines[r].reserve(n * pairs);
  }
}

void Decoder::plan_turns(int64_t row) {
  for (size_t r = 0; r < spec_.ropes.size(); ++r) {
    const Rope& rope = spec_.ropes[r];
    const auto pairs = static_cast<int64_t>(rope.frequencies.size());
    float *cosines = plan_.cosines[r].data() + row * pairs, *sines = plan_.sines[r].data() + row * pairs;
    for (int64_t j = 0; j < pairs; ++j) {
      const double angle = plan_.positions[static_cast<size_t>(row)] * rope.frequencies[static_cast<size_t>(j)];
      cosines[j] = static_cast<float>(std::cos(angle) * rope.magnitude);
      sines[j] = static_cast<float>(std::sin(angle) * rope.magnitude);
    }
  }
}

void Decoder::norm(const Norm& weights, const float* x, float* y) const {
  ops_.norm(spec_.norm, x, weights.weight.data(), weights.bias_or_null(), spec_.norm_eps, y, spec_.n_embd);
}

// x += delta; the delta is normed in place where the family wants that.
void Decoder::join(float* x, float* delta, const Norm* post_norm) const {
  if (post_norm) norm(*post_norm, delta, delta);
  ops_.add(x, delta, spec_.n_embd);
}

void Decoder::keep_pending(const std::shared_ptr<const Norm>& norm) {
  pending_ = {true, norm.get()};
  pending_norm_ = norm;
}

void Decoder::reserve_inputs(const Readers& readers, int64_t k, int64_t n) {
  if (alone()) return;
  normed_.reserve(n * k);
  for (const Linear* w : readers)
    if (w->matrix) input_.reserve(*w->matrix, n, k);
}

void Decoder::reserve_inner(const Linear& reader, int64_t k, int64_t n) {
  if (!alone()) inner_input_.reserve(*reader.matrix, n, k);
}

const Input& Decoder::normed_input(const Norm& weights, Pending pending, const Readers& readers, int thread,
                                   int n_threads) {
  const int64_t width = spec_.n_embd;
  if (alone()) {
    Own& own = own_[static_cast<size_t>(thread)];
    float *x = own.x.reserve(width), *normed = own.normed.reserve(width);
    std::memcpy(x, x_, static_cast<size_t>(width) * sizeof(float));
    own.joined = pending.any;
    if (own.joined) {
      std::memcpy(normed, delta_, static_cast<size_t>(width) * sizeof(float));
      join(x, normed, pending.norm);
    }
    norm(weights, x, normed);
    for (const Linear* w : readers)
      if (w->matrix) own.input.reserve(*w->matrix, 1, width);
    own.input.prepare(normed, width, 0, 1);
    return own.input;
  }
  // Who has rows enough prepares them while they are in its cache.
  const bool together = n_ >= input_.row_unit() * n_threads && spec_.experts.n_experts == 0;
  const int64_t unit = together ? input_.row_unit() : 1;
  const Share units((n_ + unit - 1) / unit, thread, n_threads);
  float* mine = together ? own_[static_cast<size_t>(thread)].normed.reserve(unit * width) : nullptr;
  for (int64_t begin = units.begin * unit; begin < std::min(n_, units.end * unit); begin += unit) {
    const int64_t end = std::min(n_, begin + unit);
    float* normed = together ? mine : normed_.data() + begin * width;
    for (int64_t i = begin; i < end; ++i) {
      if (pending.any) join(x_ + i * width, delta_ + i * width, pending.norm);
      norm(weights, x_ + i * width, normed + (i - begin) * width);
    }
    if (together) input_.prepare_rows(mine, width, begin, end);
  }
  if (!together) {
    team_.barrier();
    input_.prepare(normed_.data(), width, thread, n_threads);
  }
  team_.barrier();
  return input_;
}

// After a barrier: nobody reads the old residual any more.
void Decoder::keep_joined(int thread) {
  const Own& own = own_[static_cast<size_t>(thread)];
  if (thread == 0 && alone() && own.joined)
    std::memcpy(x_, own.x.data(), static_cast<size_t>(spec_.n_embd) * sizeof(float));
}

const Input& Decoder::inner_input(const float* x, int64_t k, const Linear& reader, int thread, int n_threads) {
  if (alone()) {
    Input& mine = own_[static_cast<size_t>(thread)].inner;
    mine.reserve(*reader.matrix, 1, k);
    mine.prepare(x, k, 0, 1);
    return mine;
  }
  inner_input_.prepare(x, k, thread, n_threads);
  team_.barrier();
  return inner_input_;
}

// y [n, outputs] = (or +=) the product and its bias, for the outputs of this thread.
void Decoder::multiply(const Linear& w, const Input& in, int64_t n, float* y, int64_t ldy, bool add, int thread,
                       int n_threads) const {
  if (!w.bias.empty()) {
    const Columns mine = columns_of(*w.matrix, n, thread, n_threads);
    for (int64_t i = 0; i < n; ++i) {
      if (add)
        ops_.add(y + i * ldy + mine.begin, w.bias.data() + mine.begin, mine.end - mine.begin);
      else
        std::copy(w.bias.begin() + mine.begin, w.bias.begin() + mine.end, y + i * ldy + mine.begin);
    }
  }
  linear(*w.matrix, in, y, ldy, add || !w.bias.empty(), thread, n_threads);
}

State Decoder::embed(const Embedding& block, const int32_t* tokens, const float* hidden, const int32_t* slots,
                     const int32_t* positions, int64_t n, std::shared_ptr<Cache> cache) {
  const std::lock_guard lock(mutex_);
  const int64_t width = spec_.n_embd;
  if ((tokens == nullptr) == (hidden == nullptr)) throw BackendError("Expected either tokens or hidden states.");
  if (tokens) {
    if (!block.weight || block.weight->n != spec_.n_vocab || block.weight->k != width)
      throw BackendError("The embedding was made for another model.");
    for (int64_t i = 0; i < n; ++i)
      if (tokens[i] < 0 || tokens[i] >= spec_.n_vocab) throw BackendError(range("Token", tokens[i], spec_.n_vocab));
  }
  id_ = 0;  // no state is valid while the plan is being made
  groups_.clear();
  next_group_ = 0;
  plan_rows(slots, positions, n, std::move(cache));
  x_ = x_buffer_.reserve(n * width);
  if (!delta_buffer_ || delta_buffer_->capacity() < n * width) {
    delta_buffer_ = std::make_shared<Buffer>();  // arrays over the old one keep it alive
    delta_buffer_->reserve(n * width);
  }
  delta_ = delta_buffer_->data();
  n_ = n;
  pending_ = {};
  pending_norm_.reset();
  const auto begin = [&](int thread, int n_threads) {
    const Share rows(n, thread, n_threads);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      plan_turns(i);
      float* x = x_ + i * width;
      std::memset(delta_ + i * width, 0, static_cast<size_t>(width) * sizeof(float));
      if (hidden) {
        std::memcpy(x, hidden + i * width, static_cast<size_t>(width) * sizeof(float));
        continue;
      }
      block.weight->row(tokens[i], x);
      ops_.scale_and_cap(x, spec_.embed_scale, 0, width);
      if (block.norm) norm(*block.norm, x, x);
    }
  };
  if (n == 1)
    begin(0, 1);
  else
    team_.run(begin);
  id_ = new_id();
  return {id_, n, delta_buffer_};
}

// Between two blocks threads meet once: that is a microsecond less than to leave a region and to enter the next one.
void Decoder::run_passes(const Passes& passes, const State& state) {
  if (passes.empty()) return;
  {
    const std::lock_guard lock(mutex_);
    check(state, static_cast<int64_t>(passes.size()) - 1);
    if (alone()) {
      for (const auto& [attention, feed_forward] : passes) {
        check(attention);
        check(feed_forward);
      }
      reserve_attention(passes[0].first);
      reserve_feed_forward(passes[0].second);
      team_.run([&](int thread, int n_threads) {
        Pending pending = pending_;
        for (int64_t pass = 0; const auto& [attention, feed_forward] : passes) {
          if (pass > 0) team_.barrier();
          attention_part(attention, pending, pass++, thread, n_threads);
          team_.barrier();
          pending = {true, attention.post_norm.get()};
          feed_forward_part(feed_forward, pending, thread, n_threads);
          pending.norm = feed_forward.post_norm.get();
        }
      });
      return keep_pending(passes.back().second.post_norm);
    }
  }
  for (int64_t pass = 0; const auto& [block, next] : passes) {
    attention(block, state, pass);
    feed_forward(next, state, pass++);
  }
}

void Decoder::logits(const Output& block, const State& state, const int32_t* wanted, int64_t n_wanted, float* out) {
  const std::lock_guard lock(mutex_);
  check(state, 0);
  const Matrix& matrix = *block.linear.matrix;
  const int64_t width = spec_.n_embd, n_rows = matrix.n;
  if (block.n_vocab != spec_.n_vocab || matrix.k != width) throw BackendError("The output was made for another model.");
  for (int64_t i = 0; i < n_wanted; ++i)
    if (wanted[i] < 0 || wanted[i] >= n_) throw BackendError(range("Row", wanted[i], n_));
  float* normed = normed_.reserve(std::max(n_, n_wanted) * width);
  const bool single = alone() && n_wanted == 1;
  if (!single) input_.reserve(matrix, n_wanted, width);
  team_.run([&](int thread, int n_threads) {
    const Input* in = &input_;
    if (single) {
      in = &normed_input(block.norm, pending_, {&block.linear}, thread, n_threads);
    } else {
      const Share rows(n_, thread, n_threads);
      for (int64_t i = rows.begin; i < rows.end && pending_.any; ++i)
        join(x_ + i * width, delta_ + i * width, pending_.norm);
      team_.barrier();
      const Share mine(n_wanted, thread, n_threads);
      for (int64_t i = mine.begin; i < mine.end; ++i) norm(block.norm, x_ + wanted[i] * width, normed + i * width);
      team_.barrier();
      input_.prepare(normed, width, thread, n_threads);
      team_.barrier();
    }
    multiply(block.linear, *in, n_wanted, out, n_rows, false, thread, n_threads);
    const Columns mine = columns_of(matrix, n_wanted, thread, n_threads);
    for (int64_t i = 0; i < n_wanted; ++i)
      ops_.scale_and_cap(out + i * n_rows + mine.begin, spec_.logit_scale, spec_.logit_softcap, mine.end - mine.begin);
  });
  if (single) keep_joined(0);
  pending_ = {};
  pending_norm_.reset();
}

}  // namespace ingle
