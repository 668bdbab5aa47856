// What a decoder is, as the core sees it: ingle.models.spec without what only Python needs. See there for the meaning.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "vector_ops.h"

namespace ingle {

struct Rope {
  bool half = false;  // pair i of n is (i, i + n); otherwise (2i, 2i + 1)
  double magnitude = 1;
  std::vector<double> frequencies;  // radians per position, one for each pair
};

struct Experts {
  int64_t n_experts = 0, n_used = 0, n_ff = 0;
  bool normalised = true;
};

struct Pass {
  int64_t window = 0;  // 0 = everything
  int rope = -1;       // index into Spec::ropes; -1 = none
};

struct Spec {
  int64_t n_vocab = 0, n_embd = 0, n_ff = 0, n_heads = 0, n_kv_heads = 0, head_dim = 0;
  NormKind norm = NormKind::kRms;
  float norm_eps = 1e-5f;
  Activation activation = Activation::kSilu;
  bool gated = true, parallel = false, post_norm = false, qk_norm = false;
  float score_scale = 1, attention_softcap = 0;
  std::vector<float> alibi_slopes;  // empty or one for each head
  float embed_scale = 1, logit_scale = 1, logit_softcap = 0;
  Experts experts;  // n_experts = 0: none
  std::vector<Rope> ropes;
  std::vector<Pass> passes;

  int64_t group() const { return n_heads / n_kv_heads; }  // query heads that share a key/value head

  // Throws BackendError where numbers contradict each other.
  void check() const;
};

// [begin, end): the part of n things that thread `thread` of `n_threads` does, cut at multiples of `step`.
struct Share {
  int64_t begin, end;
  Share(int64_t n, int thread, int n_threads, int64_t step = 1) {
    const int64_t steps = (n + step - 1) / step;
    begin = steps * thread / n_threads * step;
    end = steps * (thread + 1) / n_threads * step;
    if (begin > n) begin = n;
    if (end > n) end = n;
  }
};

}  // namespace ingle
