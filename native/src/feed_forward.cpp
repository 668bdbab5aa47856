// The feed-forward verb, dense or a mixture of experts.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "decoder.h"
#include "errors.h"

namespace ingle {
namespace {

// The rows that chose one expert, and the weights they gave it.
struct Group {
  std::vector<int64_t> rows;
  std::vector<float> weights;
};

// The `n_used` largest of scores [n], largest first, ties to the lower index.
std::vector<int64_t> best(const float* scores, int64_t n, int64_t n_used) {
  std::vector<int64_t> chosen;
  for (int64_t rank = 0; rank < n_used; ++rank) {
    int64_t top = -1;
    for (int64_t i = 0; i < n; ++i)
      if (std::find(chosen.begin(), chosen.end(), i) == chosen.end() && (top < 0 || scores[i] > scores[top])) top = i;
    chosen.push_back(top);
  }
  return chosen;
}

// For each expert its rows. scores: [n, X], the router's.
std::vector<Group> route(const Experts& experts, const float* scores, int64_t n) {
  std::vector<Group> groups(static_cast<size_t>(experts.n_experts));
  for (int64_t row = 0; row < n; ++row, scores += experts.n_experts) {
    const auto chosen = best(scores, experts.n_experts, experts.n_used);
    const float top = scores[chosen[0]];
    float total = 0;
    if (experts.normalised)
      for (const int64_t i : chosen) total += std::exp(scores[i] - top);
    else
      for (int64_t i = 0; i < experts.n_experts; ++i) total += std::exp(scores[i] - top);
    for (const int64_t i : chosen) {
      Group& group = groups[static_cast<size_t>(i)];
      group.rows.push_back(row);
      group.weights.push_back(std::exp(scores[i] - top) / total);
    }
  }
  return groups;
}

void fill_with_bias(const Floats& bias, float* y, int64_t ldy, const Share& rows) {
  if (bias.empty()) return;
  for (int64_t i = rows.begin; i < rows.end; ++i) std::copy(bias.begin(), bias.end(), y + i * ldy);
}

}  // namespace

// Inside a region: y [n, E] = (or +=) the network of x [n, E]. Ends without a barrier.
void Decoder::run_feed_forward(const FeedForward& ff, int64_t n, int64_t width, const float* x, float* y, bool add,
                               int thread, int n_threads) {
  float *gate = gate_.data(), *up = up_.data();
  const Share rows(n, thread, n_threads);
  fill_with_bias(ff.up.bias, up, width, rows);
  fill_with_bias(ff.gate.bias, gate, width, rows);
  for (int64_t i = rows.begin; i < rows.end && !ff.down.bias.empty(); ++i) {
    float* out = y + i * spec_.n_embd;
    if (!add) std::memset(out, 0, static_cast<size_t>(spec_.n_embd) * sizeof(float));
    ops_.add(out, ff.down.bias.data(), spec_.n_embd);
  }
  input_.prepare(x, spec_.n_embd, thread, n_threads);
  team_.barrier();
  linear(*ff.up.matrix, input_, up, width, !ff.up.bias.empty(), thread, n_threads);
  if (ff.gate.matrix) linear(*ff.gate.matrix, input_, gate, width, !ff.gate.bias.empty(), thread, n_threads);
  team_.barrier();
  float* inner = ff.gate.matrix ? gate : up;
  const Share values(n * width, thread, n_threads, 64);
  ops_.activate(spec_.activation, inner + values.begin, ff.gate.matrix ? up + values.begin : nullptr,
                values.end - values.begin);
  team_.barrier();
  inner_input_.prepare(inner, width, thread, n_threads);
  team_.barrier();
  linear(*ff.down.matrix, inner_input_, y, spec_.n_embd, add || !ff.down.bias.empty(), thread, n_threads);
}

void Decoder::feed_forward(const FeedForwardBlock& block, const State& state, int64_t pass) {
  const std::lock_guard lock(mutex_);
  check(state, pass);
  const bool mixture = spec_.experts.n_experts > 0;
  const int64_t embd = spec_.n_embd, width = mixture ? spec_.experts.n_ff : spec_.n_ff;
  const FeedForward& first = mixture && !block.experts.empty() ? block.experts[0] : block.dense;
  if (!first.up.matrix || first.up.matrix->n != width || first.up.matrix->k != embd ||
      mixture != (block.router.matrix != nullptr) ||
      (mixture && static_cast<int64_t>(block.experts.size()) != spec_.experts.n_experts))
    throw BackendError("The feed-forward block was made for another model.");
  // A parallel block reads the x that attention read, and adds to attention's delta.
  const bool add = spec_.parallel && pending_;
  float* normed = normed_.reserve(n_ * embd);
  gate_.reserve(n_ * width);
  up_.reserve(n_ * width);
  if (mixture) {
    scores_.reserve(n_ * spec_.experts.n_experts);
    input_.reserve(*block.router.matrix, n_, embd);
  } else {
    if (first.gate.matrix) input_.reserve(*first.gate.matrix, n_, embd);
    input_.reserve(*first.up.matrix, n_, embd);
    inner_input_.reserve(*first.down.matrix, n_, width);
  }

  team_.run([&](int thread, int n_threads) {
    const Share rows(n_, thread, n_threads);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      if (!spec_.parallel) join(i);
      norm(block.norm, x_ + i * embd, normed + i * embd);
    }
    if (mixture) fill_with_bias(block.router.bias, scores_.data(), spec_.experts.n_experts, rows);
    if (mixture && !add)
      for (int64_t i = rows.begin; i < rows.end; ++i)
        std::memset(delta_ + i * embd, 0, static_cast<size_t>(embd) * sizeof(float));
    team_.barrier();
    if (!mixture) return run_feed_forward(block.dense, n_, width, normed, delta_, add, thread, n_threads);
    input_.prepare(normed, embd, thread, n_threads);
    team_.barrier();
    linear(*block.router.matrix, input_, scores_.data(), spec_.experts.n_experts, !block.router.bias.empty(), thread,
           n_threads);
  });
  pending_ = true;  // before the experts: should memory fail among them, delta is at least not taken for joined
  pending_norm_ = block.post_norm;
  if (mixture) run_experts(block, scores_.data());
}

// Each expert's weights are read once for all rows that chose it. Sums go by rising expert.
void Decoder::run_experts(const FeedForwardBlock& block, const float* scores) {
  const int64_t embd = spec_.n_embd, width = spec_.experts.n_ff;
  const auto groups = route(spec_.experts, scores, n_);
  float* gathered = gathered_.reserve(n_ * embd);
  float* out = expert_out_.reserve(n_ * embd);
  for (size_t e = 0; e < groups.size(); ++e) {
    const Group& group = groups[e];
    const FeedForward& expert = block.experts[e];
    const auto n = static_cast<int64_t>(group.rows.size());
    if (n == 0) continue;
    if (expert.gate.matrix) input_.reserve(*expert.gate.matrix, n, embd);
    input_.reserve(*expert.up.matrix, n, embd);
    inner_input_.reserve(*expert.down.matrix, n, width);
    team_.run([&](int thread, int n_threads) {
      const Share rows(n, thread, n_threads);
      for (int64_t i = rows.begin; i < rows.end; ++i)
        std::memcpy(gathered + i * embd, normed_.data() + group.rows[static_cast<size_t>(i)] * embd,
                    static_cast<size_t>(embd) * sizeof(float));
      team_.barrier();
      run_feed_forward(expert, n, width, gathered, out, false, thread, n_threads);
      team_.barrier();
      for (int64_t i = rows.begin; i < rows.end; ++i)
        ops_.add_scaled(delta_ + group.rows[static_cast<size_t>(i)] * embd, out + i * embd,
                        group.weights[static_cast<size_t>(i)], embd);
    });
  }
}

}  // namespace ingle
