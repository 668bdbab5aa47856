// The functions of VectorOps except attention, for one instruction set.
#pragma once
#include "attention_impl.h"
#include "vector_math.h"
#include "vector_ops.h"

namespace ingle {
namespace {

// Calls f(vector of x, i) for x[i .. i+kWidth); the last may be partial and is then padded with zeros. Results go to y.
template <class F>
INGLE_INLINE void map(const float* x, float* y, int64_t n, F f) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(y + i, f(load(x + i), i, kWidth));
  if (i == n) return;
  vf last{};
  const int left = static_cast<int>(n - i);
  __builtin_memcpy(&last, x + i, left * 4);
  last = f(last, i, left);
  __builtin_memcpy(y + i, &last, left * 4);
}

INGLE_INLINE vf load_some(const float* p, int n) {
  if (n == kWidth) return load(p);
  vf v{};
  __builtin_memcpy(&v, p, n * 4);
  return v;
}

template <class F>
INGLE_INLINE float sum_of(const float* x, int64_t n, F f) {
  vf s[4] = {};
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth)
    for (int j = 0; j < 4; ++j) s[j] += f(load(x + i + j * kWidth));
  for (; i + kWidth <= n; i += kWidth) s[0] += f(load(x + i));
  float total = sum((s[0] + s[1]) + (s[2] + s[3]));
  for (; i < n; ++i) total += f(all(x[i]))[0];
  return total;
}

static void norm(NormKind kind, const float* x, const float* weight, const float* bias, float eps, float* y, int64_t n) {
  float mean = 0;
  if (kind == NormKind::kLayer) mean = sum_of(x, n, [](vf v) { return v; }) / static_cast<float>(n);
  const float squares = sum_of(x, n, [mean](vf v) { return (v - mean) * (v - mean); });
  const float factor = 1.0f / __builtin_sqrtf(squares / static_cast<float>(n) + eps);
  map(x, y, n, [=](vf v, int64_t i, int some) {
    const vf scaled = (v - mean) * factor * load_some(weight + i, some);
    return bias ? scaled + load_some(bias + i, some) : scaled;
  });
}

static void add(float* x, const float* y, int64_t n) {
  map(x, x, n, [=](vf v, int64_t i, int some) { return v + load_some(y + i, some); });
}

static void add_scaled(float* x, const float* y, float factor, int64_t n) {
  map(x, x, n, [=](vf v, int64_t i, int some) { return v + load_some(y + i, some) * factor; });
}

static void scale_and_cap(float* x, float factor, float cap, int64_t n) {
  if (cap > 0)
    map(x, x, n, [=](vf v, int64_t, int) { return tanh(v * factor / cap) * cap; });
  else if (factor != 1.0f)
    map(x, x, n, [=](vf v, int64_t, int) { return v * factor; });
}

template <class F>
INGLE_INLINE void activate_with(float* x, const float* up, int64_t n, F f) {
  if (up)
    map(x, x, n, [=](vf v, int64_t i, int some) { return f(v) * load_some(up + i, some); });
  else
    map(x, x, n, [=](vf v, int64_t, int) { return f(v); });
}

static void activate(Activation kind, float* x, const float* up, int64_t n) {
  switch (kind) {
    case Activation::kSilu:
      return activate_with(x, up, n, [](vf v) { return v / (1.0f + exp(-v)); });
    case Activation::kGelu:
      return activate_with(x, up, n, [](vf v) { return v * normal_cdf(v); });
    case Activation::kGeluTanh:  // (1 + tanh(u)) / 2 = 1 / (1 + e^-2u)
      return activate_with(x, up, n, [](vf v) {
        const vf u = v * (0.797884561f + 0.0356774081f * v * v);
        return v / (1.0f + exp(u * -2.0f));
      });
    case Activation::kRelu:
      return activate_with(x, up, n, [](vf v) { return max(v, vf{}); });
    case Activation::kRelu2:
      return activate_with(x, up, n, [](vf v) { return max(v, vf{}) * max(v, vf{}); });
  }
}

static void rotate(float* head, const float* cosines, const float* sines, int64_t n_pairs, bool half) {
  if (!half) {
    for (int64_t i = 0; i < n_pairs; ++i) {
      const float a = head[2 * i], b = head[2 * i + 1];
      head[2 * i] = a * cosines[i] - b * sines[i];
      head[2 * i + 1] = b * cosines[i] + a * sines[i];
    }
    return;
  }
  float* second = head + n_pairs;
  int64_t i = 0;
  for (; i + kWidth <= n_pairs; i += kWidth) {
    const vf a = load(head + i), b = load(second + i), c = load(cosines + i), s = load(sines + i);
    store(head + i, a * c - b * s);
    store(second + i, b * c + a * s);
  }
  for (; i < n_pairs; ++i) {
    const float a = head[i], b = second[i];
    head[i] = a * cosines[i] - b * sines[i];
    second[i] = b * cosines[i] + a * sines[i];
  }
}

static double sum_exp(const float* x, double max, double scale, int64_t n) {
  constexpr int kHalf = kWidth / 2;
  vd total{};
  int64_t i = 0;
  for (; i + kHalf <= n; i += kHalf) {
    half_vf v;
    __builtin_memcpy(&v, x + i, sizeof v);
    total += exp((__builtin_convertvector(v, vd) - max) * scale);
  }
  double s = 0;
  for (int lane = 0; lane < kHalf; ++lane) s += total[lane];
  for (; i < n; ++i) s += exp((x[i] - max) * scale + vd{})[0];
  return s;
}

static void maxima(const float* x, int64_t n, int64_t group, float* out) {
  for (int64_t start = 0; start < n; start += group) {
    const int64_t end = start + group < n ? start + group : n;
    vf largest = all(x[start]);
    int64_t i = start;
    for (; i + kWidth <= end; i += kWidth) largest = max(largest, load(x + i));
    float top = max(largest);
    for (; i < end; ++i) top = max(top, x[i]);
    *out++ = top;
  }
}

// Four streams, two lines of each in turn, asked for 1 KiB ahead: of all that was tried this asks most of the memory.
static void read(const void* p, int64_t n) {
  constexpr int kStreams = 4, kStep = 128, kParts = kStep / int(sizeof(vi));
  const char* bytes = static_cast<const char*>(p);
  vi seen[kStreams][2] = {};
  for (int64_t i = 0; i < n / kStreams; i += kStep) {
    for (int s = 0; s < kStreams; ++s) {
      const char* at = bytes + s * (n / kStreams) + i;
      __builtin_prefetch(at + 1024);
      __builtin_prefetch(at + 1024 + kStep / 2);
      for (int j = 0; j < kParts; ++j) {
        vi v;
        __builtin_memcpy(&v, at + j * sizeof v, sizeof v);
        seen[s][j % 2] |= v;
      }
    }
  }
  __asm__ volatile("" : : "r"(seen) : "memory");
}

constexpr VectorOps kVectorOps = {norm,           add,    add_scaled, scale_and_cap, activate, rotate,
                                  store_position, attend, sum_exp,    maxima,        read};

}  // namespace
}  // namespace ingle
