#include "blocks.h"

#include <utility>

#include "errors.h"

namespace ingle {
namespace {

// Takes tensors out by role; what is left at the end nobody knows.
class Taker {
 public:
  Taker(const char* block, Weights weights) : block_(block), weights_(std::move(weights)) {}

  SharedMatrix matrix(const std::string& role, int64_t n, int64_t k) {
    auto node = weights_.matrices.extract(role);
    if (node.empty()) fail("lacks the matrix " + role);
    const SharedMatrix& m = node.mapped();
    if (m->n != n || m->k != k)
      fail("has " + role + " of shape [" + std::to_string(m->n) + ", " + std::to_string(m->k) + "]; expected [" +
           std::to_string(n) + ", " + std::to_string(k) + "]");
    return m;
  }

  // Empty where the role is absent; otherwise of one of the two lengths.
  Floats optional(const std::string& role, int64_t n, int64_t or_n = -1) {
    auto node = weights_.vectors.extract(role);
    if (node.empty()) return {};
    const auto length = static_cast<int64_t>(node.mapped().size());
    if (length != n && length != or_n)
      fail("has " + role + " of " + std::to_string(length) + " values; expected " + std::to_string(n));
    return std::move(node.mapped());
  }

  Floats vector(const std::string& role, int64_t n, int64_t or_n = -1) {
    if (!weights_.vectors.contains(role)) fail("lacks the vector " + role);
    return optional(role, n, or_n);
  }

  Norm norm(const std::string& role, int64_t n) {
    Norm norm;
    norm.weight = vector(role, n);
    norm.bias = optional(role + ".bias", n);
    return norm;
  }

  std::shared_ptr<const Norm> norm_if(bool present, const std::string& role, int64_t n) {
    return present ? std::make_shared<const Norm>(norm(role, n)) : nullptr;
  }

  Linear linear(const std::string& role, int64_t n, int64_t k) {
    return {matrix(role, n, k), optional(role + ".bias", n)};
  }

  bool has_vector(const std::string& role) const { return weights_.vectors.contains(role); }

  void finish() const {
    for (const auto& [role, m] : weights_.matrices) fail("has a matrix " + role + " that the model's spec does not use");
    for (const auto& [role, v] : weights_.vectors) fail("has a vector " + role + " that the model's spec does not use");
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw BackendError(std::string("The ") + block_ + " block " + what + "; check the model file or convert it again.");
  }

  const char* block_;
  Weights weights_;
};

FeedForward take_feed_forward(Taker& take, const Spec& spec, int64_t width, const std::string& suffix) {
  FeedForward ff;
  if (spec.gated) ff.gate = take.linear("gate" + suffix, width, spec.n_embd);
  ff.up = take.linear("up" + suffix, width, spec.n_embd);
  ff.down = take.linear("down" + suffix, spec.n_embd, width);
  return ff;
}

MixtureShell take_shell(Taker& take, const Spec& spec) {
  MixtureShell shell;
  shell.norm = take.norm("norm", spec.n_embd);
  shell.post_norm = take.norm_if(spec.post_norm, "post_norm", spec.n_embd);
  if (spec.experts.n_experts > 0) shell.router = take.linear("router", spec.experts.n_experts, spec.n_embd);
  return shell;
}

}  // namespace

AttentionBlock make_attention_block(const Spec& spec, Weights weights) {
  Taker take("attention", std::move(weights));
  const int64_t wide = spec.n_heads * spec.head_dim, narrow = spec.n_kv_heads * spec.head_dim;
  AttentionBlock block;
  block.norm = take.norm("norm", spec.n_embd);
  block.q = take.linear("q", wide, spec.n_embd);
  block.k = take.linear("k", narrow, spec.n_embd);
  block.v = take.linear("v", narrow, spec.n_embd);
  block.o = take.linear("o", spec.n_embd, wide);
  if (spec.qk_norm) {
    block.q_norm = take.vector("q_norm", spec.head_dim, wide);
    block.k_norm = take.vector("k_norm", spec.head_dim, narrow);
  }
  block.post_norm = take.norm_if(spec.post_norm, "post_norm", spec.n_embd);
  take.finish();
  return block;
}

FeedForwardBlock make_feed_forward_block(const Spec& spec, Weights weights) {
  Taker take("feed-forward", std::move(weights));
  FeedForwardBlock block;
  static_cast<MixtureShell&>(block) = take_shell(take, spec);
  if (spec.experts.n_experts == 0) block.dense = take_feed_forward(take, spec, spec.n_ff, "");
  for (int64_t i = 0; i < spec.experts.n_experts; ++i)
    block.experts.push_back(take_feed_forward(take, spec, spec.experts.n_ff, "_experts." + std::to_string(i)));
  take.finish();
  return block;
}

MixtureShell make_mixture_shell(const Spec& spec, Weights weights) {
  if (spec.experts.n_experts == 0) throw BackendError("Only a mixture has experts apart; this model is none.");
  Taker take("feed-forward", std::move(weights));
  MixtureShell shell = take_shell(take, spec);
  take.finish();
  return shell;
}

FeedForward make_expert(const Spec& spec, Weights weights) {
  Taker take("expert's", std::move(weights));
  FeedForward expert = take_feed_forward(take, spec, spec.experts.n_ff, "");
  take.finish();
  return expert;
}

Embedding make_embedding(const Spec& spec, Weights weights) {
  Taker take("embedding", std::move(weights));
  Embedding block;
  block.weight = take.matrix("weight", spec.n_vocab, spec.n_embd);
  block.norm = take.norm_if(take.has_vector("norm"), "norm", spec.n_embd);
  take.finish();
  return block;
}

Output make_output(const Spec& spec, Weights weights, int64_t n_rows) {
  Taker take("output", std::move(weights));
  Output block;
  block.norm = take.norm("norm", spec.n_embd);
  block.linear.matrix = take.matrix("weight", n_rows, spec.n_embd);
  block.linear.bias = take.optional("bias", n_rows);
  block.n_vocab = spec.n_vocab;
  take.finish();
  return block;
}

int64_t bytes_of(const Weights& weights) {
  int64_t bytes = 0;
  for (const auto& [role, m] : weights.matrices) bytes += static_cast<int64_t>(m->bytes());
  for (const auto& [role, v] : weights.vectors) bytes += static_cast<int64_t>(v.size() * sizeof(float));
  return bytes;
}

}  // namespace ingle
