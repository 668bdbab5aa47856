// Drawing one token from logits.
//
// The definition, in float64 (ingle.engine.sampling.sample_numpy is its plain form and gives the same token):
//   1. repeat penalty: l[t] of each distinct t in history becomes l / penalty where l > 0, otherwise l * penalty
//   2. temperature 0: the token is the largest l, the lowest id where several are; done
//   3. candidates: the top_k largest l (0 = all), by falling l, then rising id; w[i] = exp(l[i] - l[0])
//   4. keep i while sum(w[0 .. i-1]) < top_p * sum(w) and w[i] >= min_p; at least the first
//   5. v[i] = exp((l[i] - l[0]) / temperature); the token is the first i with sum(v[0 .. i]) > uniform * sum(v), or
//      the last one kept
// Sums go in the candidates' order, except that sums over the whole vocabulary (top_k = 0) go in any order: they may
// differ in the last bits. The log-probability is that of the raw logits: l - log(sum(exp(l))), whatever the sampling.
//
// A vocabulary is long and few of its tokens matter, so nothing is sorted whole unless the cut-offs really reach that
// far: the k-th largest of the maxima of small groups bounds the k-th largest logit from below, and only what reaches
// that bound is gathered and sorted.
#pragma once
#include <cstdint>

namespace ingle {

struct Sampling {
  double repeat_penalty = 1;
  int64_t top_k = 0;
  double top_p = 1, min_p = 0, temperature = 1;
  double uniform = 0;  // in [0, 1)
};

struct Drawn {
  int64_t token;
  double logprob;
};

// logits [n], history [n_history]. Throws BackendError where the largest logit is not finite, a token of the history is
// not in the vocabulary, or a parameter is out of its range.
Drawn sample(const float* logits, int64_t n, const int32_t* history, int64_t n_history, const Sampling& how);

}  // namespace ingle
