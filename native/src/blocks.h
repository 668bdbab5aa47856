// The weights of one block, checked against the spec when they are gathered, so that the verbs need no checks.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "linear.h"
#include "spec.h"

namespace ingle {

using Floats = std::vector<float>;
using SharedMatrix = std::shared_ptr<const Matrix>;

// Loaded tensors by role; the roles are those of ingle.backends.base. A mixture's matrices are "up_experts.3".
struct Weights {
  std::map<std::string, SharedMatrix> matrices;
  std::map<std::string, Floats> vectors;
};

struct Norm {
  Floats weight, bias;  // bias may be empty
  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
};

// One matrix with its optional bias.
struct Linear {
  SharedMatrix matrix;
  Floats bias;
};

struct AttentionBlock {
  Norm norm;
  Linear q, k, v, o;
  Floats q_norm, k_norm;                  // [D], [heads * D], or empty
  std::shared_ptr<const Norm> post_norm;  // nullptr = none; shared, because it is used after the block's verb
};

struct FeedForward {
  Linear gate, up, down;  // gate is empty where the spec is not gated
};

// What a mixture is besides its experts.
struct MixtureShell {
  Norm norm;
  std::shared_ptr<const Norm> post_norm;
  Linear router;
};

struct FeedForwardBlock : MixtureShell {  // without experts there is no router
  FeedForward dense;
  std::vector<FeedForward> experts;
};

struct Embedding {
  SharedMatrix weight;
  std::shared_ptr<const Norm> norm;  // nullptr = none
};

struct Output {
  Norm norm;
  Linear linear;        // all rows, or some
  int64_t n_vocab = 0;  // of the model
};

// All throw BackendError for a role that is missing, not known, or of another shape than the spec says.
AttentionBlock make_attention_block(const Spec& spec, Weights weights);
FeedForwardBlock make_feed_forward_block(const Spec& spec, Weights weights);
MixtureShell make_mixture_shell(const Spec& spec, Weights weights);
FeedForward make_expert(const Spec& spec, Weights weights);  // the roles are "gate", "up" and "down"
Embedding make_embedding(const Spec& spec, Weights weights);
Output make_output(const Spec& spec, Weights weights, int64_t n_rows);  // spec.n_vocab, or those of a slice

// Bytes of all matrices in a block (shared ones count everywhere) and of its vectors.
int64_t bytes_of(const Weights& weights);

}  // namespace ingle
