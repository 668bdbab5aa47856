// The feed-forward verb, dense or a mixture of experts.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "decoder.h"
#include "errors.h"

namespace ingle {
namespace {

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

}  // namespace

// Inside a region: y [n, E] = (or +=) the network of the rows in `in`. Ends without a barrier.
void Decoder::run_feed_forward(const FeedForward& ff, const Input& in, int64_t n, int64_t width, float* y, bool add,
                               int thread, int n_threads) {
  const Input* inner = &inner_input_;
  if (ff.gate.matrix && ff.gate.bias.empty() && ff.up.bias.empty() &&
      can_gate(*ff.gate.matrix, *ff.up.matrix, *ff.down.matrix, n)) {
    linear_gated(*ff.gate.matrix, *ff.up.matrix, in, {ops_.activate, spec_.activation}, inner_input_, thread, n_threads);
    team_.barrier();
  } else {
    float *gate = gate_.data(), *up = up_.data(), *x = ff.gate.matrix ? gate : up;
    multiply(ff.up, in, n, up, width, false, thread, n_threads);
    if (ff.gate.matrix) multiply(ff.gate, in, n, gate, width, false, thread, n_threads);
    const Columns mine = columns_of(*ff.up.matrix, n, thread, n_threads);
    for (int64_t at = mine.begin; at < n * width; at += width)
      ops_.activate(spec_.activation, x + at, ff.gate.matrix ? up + at : nullptr, mine.end - mine.begin);
    team_.barrier();
    inner = &inner_input(x, width, ff.down, thread, n_threads);
  }
  keep_joined(thread);
  multiply(ff.down, *inner, n, y, spec_.n_embd, add, thread, n_threads);
}

void Decoder::check(const FeedForward& network) const {
  const auto fits = [this](const Linear& w) { return w.matrix->n == ff_width() && w.matrix->k == spec_.n_embd; };
  if (!network.up.matrix || !fits(network.up) || (network.gate.matrix != nullptr) != spec_.gated)
    throw BackendError("The feed-forward block was made for another model.");
}

void Decoder::check(const MixtureShell& shell) const {
  const Matrix* const router = shell.router.matrix.get();
  if (router ? router->n != spec_.experts.n_experts || router->k != spec_.n_embd : spec_.experts.n_experts > 0)
    throw BackendError("The feed-forward block was made for another model.");
}

void Decoder::check(const FeedForwardBlock& block) const {
  check(static_cast<const MixtureShell&>(block));
  check(block.experts.empty() ? block.dense : block.experts[0]);
}

void Decoder::reserve_feed_forward(const FeedForwardBlock& block) {
  gate_.reserve(n_ * ff_width());
  up_.reserve(n_ * ff_width());
  reserve_inputs({&block.dense.gate, &block.dense.up}, spec_.n_embd, n_);
  reserve_inner(block.dense.down, ff_width(), n_);
}

// A parallel block reads the x that attention read, and adds to attention's delta.
void Decoder::feed_forward_part(const FeedForwardBlock& block, Pending pending, int thread, int n_threads) {
  const bool add = spec_.parallel && pending.any;
  const Pending joining = spec_.parallel ? Pending{} : pending;
  const Input& in = normed_input(block.norm, joining, {&block.dense.gate, &block.dense.up}, thread, n_threads);
  run_feed_forward(block.dense, in, n_, ff_width(), delta_, add, thread, n_threads);
}

// The same for a mixture, up to the router's scores.
void Decoder::router_part(const MixtureShell& shell, Pending pending, int thread, int n_threads) {
  const int64_t embd = spec_.n_embd;
  const bool add = spec_.parallel && pending.any;
  const Input& in = normed_input(shell.norm, spec_.parallel ? Pending{} : pending, {&shell.router}, thread, n_threads);
  const Share rows(n_, thread, n_threads);
  for (int64_t i = rows.begin; i < rows.end && !add; ++i)
    std::memset(delta_ + i * embd, 0, static_cast<size_t>(embd) * sizeof(float));
  multiply(shell.router, in, n_, scores_.data(), spec_.experts.n_experts, false, thread, n_threads);
}

void Decoder::feed_forward(const FeedForwardBlock& block, const State& state, int64_t pass) {
  const std::lock_guard lock(mutex_);
  check(state, pass);
  check(block);
  if (spec_.experts.n_experts == 0) {
    reserve_feed_forward(block);
    team_.run([&](int thread, int n_threads) { feed_forward_part(block, pending_, thread, n_threads); });
    return keep_pending(block.post_norm);
  }
  route_rows(block);
  while (next_group_ < groups_.size())
    run_next_expert(block.experts[static_cast<size_t>(groups_[next_group_].expert)]);
}

std::vector<int64_t> Decoder::route(const MixtureShell& shell, const State& state, int64_t pass) {
  const std::lock_guard lock(mutex_);
  check(state, pass);
  check(shell);
  if (spec_.experts.n_experts == 0) throw BackendError("Only a mixture has a router; this model is none.");
  route_rows(shell);
  std::vector<int64_t> chosen;
  for (const Group& group : groups_) chosen.push_back(group.expert);
  return chosen;
}

void Decoder::run_expert(const FeedForward& expert, const State& state, int64_t number) {
  const std::lock_guard lock(mutex_);
  if (state.id != id_ || next_group_ >= groups_.size() || groups_[next_group_].expert != number)
    throw BackendError("Expert " + std::to_string(number) + " came out of turn; expected those that the router chose.");
  check(expert);
  run_next_expert(expert);
}

// Gathers the rows that chose each expert: in groups_, by rising expert.
void Decoder::route_rows(const MixtureShell& shell) {
  const Experts& experts = spec_.experts;
  gate_.reserve(n_ * ff_width());
  up_.reserve(n_ * ff_width());
  gathered_.reserve(n_ * spec_.n_embd);
  expert_out_.reserve(n_ * spec_.n_embd);
  const float* scores = scores_.reserve(n_ * experts.n_experts);
  reserve_inputs({&shell.router}, spec_.n_embd, n_);
  team_.run([&](int thread, int n_threads) { router_part(shell, pending_, thread, n_threads); });
  keep_pending(shell.post_norm);
  groups_.resize(static_cast<size_t>(experts.n_experts));
  next_group_ = 0;
  for (size_t e = 0; e < groups_.size(); ++e) groups_[e] = {static_cast<int64_t>(e), {}, {}};
  for (int64_t row = 0; row < n_; ++row, scores += experts.n_experts) {
    const auto chosen = best(scores, experts.n_experts, experts.n_used);
    const float top = scores[chosen[0]];
    float total = 0;
    if (experts.normalised)
      for (const int64_t i : chosen) total += std::exp(scores[i] - top);
    else
      for (int64_t i = 0; i < experts.n_experts; ++i) total += std::exp(scores[i] - top);
    for (const int64_t i : chosen) {
      Group& group = groups_[static_cast<size_t>(i)];
      group.rows.push_back(row);
      group.weights.push_back(std::exp(scores[i] - top) / total);
    }
  }
  std::erase_if(groups_, [](const Group& group) { return group.rows.empty(); });
}

// An expert's weights are read once for all rows that chose it. Sums go by rising expert.
void Decoder::run_next_expert(const FeedForward& expert) {
  const Group& group = groups_[next_group_];
  const int64_t embd = spec_.n_embd, width = spec_.experts.n_ff;
  const auto n = static_cast<int64_t>(group.rows.size());
  float *gathered = gathered_.data(), *out = expert_out_.data();
  if (expert.gate.matrix) input_.reserve(*expert.gate.matrix, n, embd);
  input_.reserve(*expert.up.matrix, n, embd);
  inner_input_.reserve(*expert.down.matrix, n, width);
  team_.run([&](int thread, int n_threads) {
    const Share rows(n, thread, n_threads);
    for (int64_t i = rows.begin; i < rows.end; ++i)
      std::memcpy(gathered + i * embd, normed_.data() + group.rows[static_cast<size_t>(i)] * embd,
                  static_cast<size_t>(embd) * sizeof(float));
    team_.barrier();
    input_.prepare(gathered, embd, thread, n_threads);
    team_.barrier();
    run_feed_forward(expert, input_, n, width, out, false, thread, n_threads);
    team_.barrier();
    for (int64_t i = rows.begin; i < rows.end; ++i)
      ops_.add_scaled(delta_ + group.rows[static_cast<size_t>(i)] * embd, out + i * embd,
                      group.weights[static_cast<size_t>(i)], embd);
  });
  ++next_group_;
}

}  // namespace ingle
