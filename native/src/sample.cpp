#include "sample.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "errors.h"
#include "vector_ops.h"

namespace ingle {
namespace {

struct Candidate {
  double logit;
  int32_t id;
  bool operator<(const Candidate& other) const { return logit != other.logit ? logit > other.logit : id < other.id; }
};

void check(int64_t n, const int32_t* history, int64_t n_history, const Sampling& how) {
  if (n < 1) throw BackendError("Expected logits of at least one token.");
  for (int64_t i = 0; i < n_history; ++i)
    if (history[i] < 0 || history[i] >= n)
      throw BackendError("Token " + std::to_string(history[i]) + " of the history is not in the vocabulary of " +
                         std::to_string(n) + ".");
  if (!(how.repeat_penalty > 0) || how.top_k < 0 || !(how.top_p >= 0) || !(how.min_p >= 0) ||
      !(how.temperature >= 0) || !(how.uniform >= 0 && how.uniform < 1))
    throw BackendError("A sampling parameter is out of its range.");
}

// Logits after the penalty: all unpenalised ones in an array (penalised places hold -infinity), the others listed.
class Penalised {
 public:
  Penalised(const float* logits, int64_t n, const int32_t* history, int64_t n_history, double penalty)
      : logits_(logits), n_(n) {
    if (penalty == 1 || n_history == 0) return;
    std::vector<int32_t> ids(history, history + n_history);
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    copy_.assign(logits, logits + n);
    for (const int32_t id : ids) {
      const double logit = logits[id];
      listed_.push_back({logit > 0 ? logit / penalty : logit * penalty, id});
      copy_[static_cast<size_t>(id)] = -std::numeric_limits<float>::infinity();
    }
    std::sort(listed_.begin(), listed_.end());
    logits_ = copy_.data();
  }

  bool none() const { return listed_.empty(); }

  Candidate largest() const {
    constexpr int64_t kSome = 256;
    maxima_.resize(static_cast<size_t>((n_ + kSome - 1) / kSome));
    vector_ops().maxima(logits_, n_, kSome, maxima_.data());
    const int64_t from = (std::max_element(maxima_.begin(), maxima_.end()) - maxima_.begin()) * kSome;
    const float* top = std::max_element(logits_ + from, logits_ + std::min(n_, from + kSome));
    Candidate best{*top, static_cast<int32_t>(top - logits_)};
    return !listed_.empty() && (listed_[0] < best || std::isinf(best.logit)) ? listed_[0] : best;
  }

  double sum_exp(double max, double scale) const {
    double sum = vector_ops().sum_exp(logits_, max, scale, n_);
    for (const Candidate& c : listed_) sum += std::exp((c.logit - max) * scale);
    return sum;
  }

  // At least the `count` largest (all, where there are not so many), sorted: a beginning of the sorted whole. Tokens that
  // can never be drawn (-infinity) are left out.
  std::vector<Candidate> best(int64_t count) const {
    std::vector<Candidate> found;
    const double bound = lower_bound(count);
    gather(bound, found);
    for (const Candidate& c : listed_)
      if (c.logit >= bound) found.push_back(c);
    std::sort(found.begin(), found.end());
    return found;
  }

 private:
  static constexpr int64_t kSmallGroup = 16;

  // No more than the count-th largest of the unpenalised logits.
  double lower_bound(int64_t count) const {
    constexpr double kAll = -std::numeric_limits<double>::infinity();
    if (count >= n_ / 2) return kAll;
    const bool grouped = count * 2 * kSmallGroup < n_;
    group_ = grouped ? std::clamp<int64_t>(n_ / (8 * count) / kSmallGroup * kSmallGroup, kSmallGroup, 256) : 1;
    if (grouped) {
      maxima_.resize(static_cast<size_t>((n_ + group_ - 1) / group_));
      vector_ops().maxima(logits_, n_, group_, maxima_.data());
    }
    std::vector<float> values = grouped ? maxima_ : std::vector<float>(logits_, logits_ + n_);
    std::nth_element(values.begin(), values.begin() + count - 1, values.end(), std::greater<>());
    return values[static_cast<size_t>(count - 1)];
  }

  void gather(double bound, std::vector<Candidate>& found) const {
    const auto take = [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i)
        if (logits_[i] >= bound && !std::isinf(logits_[i])) found.push_back({logits_[i], static_cast<int32_t>(i)});
    };
    if (std::isinf(bound) || group_ == 1) return take(0, n_);
    for (size_t g = 0; g < maxima_.size(); ++g)
      if (maxima_[g] >= bound) {
        const auto from = static_cast<int64_t>(g) * group_;
        take(from, std::min(n_, from + group_));
      }
  }

  const float* logits_;
  int64_t n_;
  std::vector<float> copy_;
  std::vector<Candidate> listed_;
  mutable std::vector<float> maxima_;
  mutable int64_t group_ = 1;
};

// Step 5 over candidates[0 .. n), whose v sum to `total` (or, if that is not known, to their own sum).
int64_t walk(const std::vector<Candidate>& candidates, size_t n, const Sampling& how, double total, bool& reached) {
  const double top = candidates[0].logit;
  const auto v = [&](size_t i) { return std::exp((candidates[i].logit - top) / how.temperature); };
  if (total <= 0)
    for (size_t i = 0; i < n; ++i) total += v(i);
  double sum = 0;
  for (size_t i = 0; i < n; ++i) {
    sum += v(i);
    if ((reached = sum > how.uniform * total)) return candidates[i].id;
  }
  return candidates[n - 1].id;
}

// `normaliser`: the sum of exp over the logits as they came, less their largest; a pass over all of them that is saved
// where no penalty has changed one.
int64_t draw(const Penalised& logits, int64_t n_vocab, const Sampling& how, double normaliser) {
  const bool all = how.top_k == 0 || how.top_k >= n_vocab;
  const bool uncut = all && how.top_p >= 1 && how.min_p <= 0;  // every token is a candidate to the end
  const double top = logits.largest().logit;
  double whole_w = 0;
  if (all && how.top_p < 1) whole_w = logits.none() ? normaliser : logits.sum_exp(top, 1);
  const double whole_v = uncut ? logits.sum_exp(top, std::min(1 / how.temperature, 1e300)) : 0;
  for (int64_t count = all ? std::min<int64_t>(256, n_vocab) : how.top_k;;
       count = count >= n_vocab / 16 ? n_vocab : count * 16) {
    auto candidates = logits.best(count);
    if (!all && candidates.size() > static_cast<size_t>(how.top_k))
      candidates.resize(static_cast<size_t>(how.top_k));
    const bool complete = !all || count >= n_vocab;
    bool reached = false;
    if (uncut) {
      const int64_t token = walk(candidates, candidates.size(), how, whole_v, reached);
      if (reached || complete) return token;
      continue;
    }
    double sum_w = whole_w;
    if (how.top_p < 1 && !all)
      for (const Candidate& c : candidates) sum_w += std::exp(c.logit - top);
    // As in the definition the first stays, and the sum before a candidate decides whether it is kept.
    size_t kept = 1;
    double before = 1;
    bool cut = false;
    for (; kept < candidates.size(); ++kept) {
      const double w = std::exp(candidates[kept].logit - top);
      if ((cut = w < how.min_p || (how.top_p < 1 && !(before < how.top_p * sum_w)))) break;
      before += w;
    }
    if (cut || complete) return walk(candidates, kept, how, 0, reached);
  }
}

}  // namespace

Drawn sample(const float* logits, int64_t n, const int32_t* history, int64_t n_history, const Sampling& how) {
  check(n, history, n_history, how);
  float top = 0;
  vector_ops().maxima(logits, n, (n + 15) / 16 * 16, &top);
  const double normaliser = vector_ops().sum_exp(logits, top, 1, n);
  if (!std::isfinite(top) || !std::isfinite(normaliser))  // one NaN anywhere makes the sum NaN
    throw BackendError("The model's logits are not finite numbers; its file is damaged or needs another conversion.");
  const Penalised penalised(logits, n, history, n_history, how.repeat_penalty);
  const int64_t token = how.temperature == 0 ? penalised.largest().id : draw(penalised, n, how, normaliser);
  return {token, logits[token] - static_cast<double>(top) - std::log(normaliser)};
}

}  // namespace ingle
