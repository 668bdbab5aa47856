// How the scales of the K-quants are found.
//
// A group of 16 or 32 weights x is stored as small integers q with x ~ s q (symmetric) or x ~ s q - m (affine). For
// fixed q the best s (and m) is a weighted least-squares fit; for fixed s (and m) the best q is the nearest integer. So
//   1. per group, start from several scales around the one that just covers the range, round, fit, keep the best, and
//      repeat round-and-fit while it improves;
//   2. per block of 256, store the groups' scales as few-bit multiples of a float16 unit. Rounding a scale moves it, so
//      each group then tries the neighbouring multiples with freshly rounded q, and the unit is fitted again to all
//      256 weights. This step is where the low-bit types gain most.
// The squared error of a weight counts (r + |x|), with r the root mean square of the block: large weights matter more.

#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

#ifdef __FAST_MATH__
#error "the quantisers round by adding a large constant, which -ffast-math would remove"
#endif

namespace ingle::fit {

constexpr int kBlock = 256;  // weights of a K-quant block
constexpr int kLanes = 8;    // independent partial sums: compilers do not reorder a float sum to vectorise it

// ---- numbers --------------------------------------------------------------------------------------------------------

// Nearest integer, ties to even, for |v| < 2^22: the addition leaves no bits for a fraction.
inline float nearest(float v) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
  return (v + kShift) - kShift;
}

inline float clamp(float v, float low, float high) {
  v = v > low ? v : low;  // NaN becomes low
  return v < high ? v : high;
}

inline int nearest_clamped(float v, int low, int high) {
  return static_cast<int>(nearest(clamp(v, static_cast<float>(low), static_cast<float>(high))));
}

// float32 to float16 bits, nearest, ties to even.
inline std::uint16_t to_half(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude >= 0x7f800000u) {  // infinite, or not a number
    return static_cast<std::uint16_t>(sign | 0x7c00u | (magnitude > 0x7f800000u ? 0x200u : 0u));
  }
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // rounds to 65536 or more
  if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 aligns the last bit with 2^-24
    const float aligned = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(aligned) - 0x3f000000u));
  }
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

inline float from_half(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fu;
  const std::uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
  }
  const std::uint32_t wide = exponent == 31 ? 0xffu : exponent + 112u;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

inline float rounded_to_half(float value) { return from_half(to_half(value)); }

using Lanes = std::array<float, kLanes>;

inline float sum(const Lanes& lanes) {
  return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

// Reciprocal that stays usable: 0 for 0, so that rounding then gives q = 0.
inline float inverse(float v) { return v != 0.0f && std::isfinite(1.0f / v) ? 1.0f / v : 0.0f; }

// How much the squared error of each weight counts.
template <int N>
void importance(const float* x, float* w) {
  Lanes squares{};
  for (int i = 0; i < N; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) squares[l] += x[i + l] * x[i + l];
  }
  const float rms = std::sqrt(sum(squares) / N);
  for (int i = 0; i < N; ++i) w[i] = rms > 0.0f ? 1.0f + std::fabs(x[i]) / rms : 1.0f;
}

// ---- symmetric: x ~ s q, with low <= q <= high ----------------------------------------------------------------------

// The largest magnitude, with its sign.
template <int N>
float extreme(const float* x) {
  float found = 0.0f;
  for (int i = 0; i < N; ++i) {
    if (std::fabs(x[i]) > std::fabs(found)) found = x[i];
  }
  return found;
}

// Sums for the fit of s to q = round(x * inverse_scale): s = xq / qq, and the error is (sum of w x x) - xq^2 / qq.
struct SymmetricSums {
  float xq, qq;
};

template <int N, int Low, int High>
SymmetricSums symmetric_sums(const float* x, const float* w, float inverse_scale) {
  Lanes xq{}, qq{};
  for (int i = 0; i < N; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const float q = nearest(clamp(inverse_scale * x[i + l], Low, High));
      const float wq = w[i + l] * q;
      xq[l] += wq * x[i + l];
      qq[l] += wq * q;
    }
  }
  return {sum(xq), sum(qq)};
}

// Keeps the scale that explains most of the group: maximises xq^2 / qq.
struct BestScale {
  float scale = 0.0f;
  float gain = 0.0f;

  bool offer(const SymmetricSums& s) {
    if (!(s.qq > 0.0f)) return false;
    const float offered = s.xq * s.xq / s.qq;
    if (!(offered > gain)) return false;
    gain = offered;
    scale = s.xq / s.qq;
    return true;
  }
};

// The scale of one group. |Low| > High, so the extreme goes to Low, and the scale is negative where it is positive.
template <int N, int Low, int High>
float fit_symmetric(const float* x, const float* w) {
  const float peak = extreme<N>(x);
  const float unit = inverse(peak);
  if (unit == 0.0f) return 0.0f;
  BestScale best;
  constexpr int kTries = 9;
  for (int t = -kTries; t <= kTries; ++t) {
    best.offer(symmetric_sums<N, Low, High>(x, w, (static_cast<float>(Low) + 0.1f * static_cast<float>(t)) * unit));
  }
  for (int round = 0; round < 4; ++round) {
    if (!best.offer(symmetric_sums<N, Low, High>(x, w, inverse(best.scale)))) break;
  }
  return best.scale;
}

// Sum of w (x - scale q)^2 with q = round(x / scale).
template <int N, int Low, int High>
float symmetric_error(const float* x, const float* w, float scale) {
  const float inverse_scale = inverse(scale);
  Lanes error{};
  for (int i = 0; i < N; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const float q = nearest(clamp(inverse_scale * x[i + l], Low, High));
      const float e = x[i + l] - scale * q;
      error[l] += w[i + l] * e * e;
    }
  }
  return sum(error);
}

// A block of groups with x ~ unit multiple q.
template <int Groups>
struct SymmetricBlock {
  float unit = 0.0f;  // a float16 value
  std::array<int, Groups> multiple{};
};

template <int N, int Low, int High, int ScaleLow, int ScaleHigh>
SymmetricBlock<kBlock / N> fit_symmetric_block(const float* x) {
  constexpr int kGroups = kBlock / N;
  float w[kBlock];
  importance<kBlock>(x, w);
  float scale[kGroups];
  for (int g = 0; g < kGroups; ++g) scale[g] = fit_symmetric<N, Low, High>(x + g * N, w + g * N);

  SymmetricBlock<kGroups> best;
  float best_error = symmetric_error<kBlock, Low, High>(x, w, 0.0f);
  float unit = rounded_to_half(extreme<kGroups>(scale) / static_cast<float>(ScaleLow));
  for (int round = 0; round < 3 && unit != 0.0f; ++round) {
    SymmetricBlock<kGroups> block;
    block.unit = unit;
    float total = 0.0f, fit_x = 0.0f, fit_q = 0.0f;
    for (int g = 0; g < kGroups; ++g) {
      const int middle = nearest_clamped(scale[g] * inverse(unit), ScaleLow, ScaleHigh);
      float group_error = INFINITY;
      for (int m = std::max(middle - 1, ScaleLow); m <= std::min(middle + 1, ScaleHigh); ++m) {
        const float e = symmetric_error<N, Low, High>(x + g * N, w + g * N, unit * static_cast<float>(m));
        if (e < group_error) {
          group_error = e;
          block.multiple[g] = m;
        }
      }
      total += group_error;
      const float m = static_cast<float>(block.multiple[g]);
      const SymmetricSums s = symmetric_sums<N, Low, High>(x + g * N, w + g * N, inverse(unit * m));
      fit_x += m * s.xq;
      fit_q += m * m * s.qq;
    }
    if (!(total < best_error)) break;
    best_error = total;
    best = block;
    const float refitted = rounded_to_half(fit_x * inverse(fit_q));
    if (refitted == unit) break;
    unit = refitted;
  }
  return best;
}

// ---- affine: x ~ s q - m, with 0 <= q <= high, s >= 0, m >= 0 -------------------------------------------------------

struct Affine {
  float scale = 0.0f;
  float minimum = 0.0f;  // subtracted
};

// Weighted sums over a group with q = round((x + m) / s): everything that a fit of s and m needs.
struct AffineSums {
  float q, qq, xq;
};

template <int N, int High>
AffineSums affine_sums(const float* x, const float* w, const Affine& a) {
  const float inverse_scale = inverse(a.scale);
  Lanes sum_q{}, qq{}, xq{};
  for (int i = 0; i < N; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const float q = nearest(clamp((x[i + l] + a.minimum) * inverse_scale, 0, High));
      const float wq = w[i + l] * q;
      sum_q[l] += wq;
      qq[l] += wq * q;
      xq[l] += wq * x[i + l];
    }
  }
  return {sum(sum_q), sum(qq), sum(xq)};
}

template <int N, int High>
float affine_error(const float* x, const float* w, const Affine& a) {
  const float inverse_scale = inverse(a.scale);
  Lanes error{};
  for (int i = 0; i < N; i += kLanes) {
    for (int l = 0; l < kLanes; ++l) {
      const float q = nearest(clamp((x[i + l] + a.minimum) * inverse_scale, 0, High));
      const float e = x[i + l] - (a.scale * q - a.minimum);
      error[l] += w[i + l] * e * e;
    }
  }
  return sum(error);
}

// Minimises sum of w (x - s q + m)^2 over s and m >= 0, given the sums. Returns how much of the sum of w x^2 that
// explains (the rest is the error), or 0 where nothing is.
inline float solve_affine(float sum_w, float sum_x, const AffineSums& s, Affine& out) {
  const float determinant = sum_w * s.qq - s.q * s.q;
  if (determinant > 0.0f) {
    out.scale = (sum_w * s.xq - sum_x * s.q) / determinant;
    out.minimum = (s.q * s.xq - s.qq * sum_x) / determinant;
    if (out.minimum >= 0.0f && out.scale > 0.0f) return out.scale * s.xq - out.minimum * sum_x;
  }
  out.minimum = 0.0f;
  out.scale = s.qq > 0.0f && s.xq > 0.0f ? s.xq / s.qq : 0.0f;
  return out.scale * s.xq;
}

template <int N, int High>
Affine fit_affine(const float* x, const float* w) {
  float low = 0.0f, high = 0.0f;  // zero is always representable, as m >= 0
  float sum_w = 0.0f, sum_x = 0.0f;
  for (int i = 0; i < N; ++i) {
    low = std::min(low, x[i]);
    high = std::max(high, x[i]);
    sum_w += w[i];
    sum_x += w[i] * x[i];
  }
  // all weights at one level, so that a group of equal negative weights is exact
  Affine best{0.0f, std::max(0.0f, -sum_x / sum_w)};
  float best_gain = -best.minimum * sum_x;
  auto offer = [&](const Affine& start) {
    Affine fitted;
    const float gain = solve_affine(sum_w, sum_x, affine_sums<N, High>(x, w, start), fitted);
    if (!(gain > best_gain)) return false;
    best_gain = gain;
    best = fitted;
    return true;
  };
  // steps of a tenth of a level, from a little wider than the range to one that cuts some of it off
  for (int t = -5; t <= 15; ++t) {
    offer({(high - low) / (static_cast<float>(High) + 0.1f * static_cast<float>(t)), -low});
  }
  for (int round = 0; round < 4 && offer(best); ++round) {
  }
  return best;
}

// A block of groups with x ~ unit multiple q - minimum_unit minimum_multiple.
template <int Groups>
struct AffineBlock {
  float unit = 0.0f;  // float16 values, both
  float minimum_unit = 0.0f;
  std::array<int, Groups> multiple{};
  std::array<int, Groups> minimum_multiple{};
};

template <int N, int High, int ScaleHigh>
AffineBlock<kBlock / N> fit_affine_block(const float* x) {
  constexpr int kGroups = kBlock / N;
  float w[kBlock];
  importance<kBlock>(x, w);
  Affine group[kGroups];
  float sum_w[kGroups], sum_x[kGroups];
  float top_scale = 0.0f, top_minimum = 0.0f;
  for (int g = 0; g < kGroups; ++g) {
    group[g] = fit_affine<N, High>(x + g * N, w + g * N);
    top_scale = std::max(top_scale, group[g].scale);
    top_minimum = std::max(top_minimum, group[g].minimum);
    sum_w[g] = sum_x[g] = 0.0f;
    for (int i = g * N; i < (g + 1) * N; ++i) {
      sum_w[g] += w[i];
      sum_x[g] += w[i] * x[i];
    }
  }

  AffineBlock<kGroups> best;
  float best_error = affine_error<kBlock, High>(x, w, {});
  float unit = rounded_to_half(top_scale / ScaleHigh), minimum_unit = rounded_to_half(top_minimum / ScaleHigh);
  for (int round = 0; round < 3; ++round) {
    AffineBlock<kGroups> block;
    block.unit = unit;
    block.minimum_unit = minimum_unit;
    // normal equations of x ~ unit A - minimum_unit B over the block, A = multiple q, B = minimum_multiple
    float aa = 0.0f, ab = 0.0f, bb = 0.0f, xa = 0.0f, xb = 0.0f, total = 0.0f;
    for (int g = 0; g < kGroups; ++g) {
      const float* gx = x + g * N;
      const float* gw = w + g * N;
      const int middle = nearest_clamped(group[g].scale * inverse(unit), 0, ScaleHigh);
      const int minimum_middle = nearest_clamped(group[g].minimum * inverse(minimum_unit), 0, ScaleHigh);
      float group_error = INFINITY;
      for (int s = std::max(middle - 1, 0); s <= std::min(middle + 1, ScaleHigh); ++s) {
        for (int m = std::max(minimum_middle - 1, 0); m <= std::min(minimum_middle + 1, ScaleHigh); ++m) {
          const Affine a{unit * static_cast<float>(s), minimum_unit * static_cast<float>(m)};
          const float e = affine_error<N, High>(gx, gw, a);
          if (e < group_error) {
            group_error = e;
            block.multiple[g] = s;
            block.minimum_multiple[g] = m;
          }
        }
      }
      total += group_error;
      const float s = static_cast<float>(block.multiple[g]), m = static_cast<float>(block.minimum_multiple[g]);
      const AffineSums sums = affine_sums<N, High>(gx, gw, {unit * s, minimum_unit * m});
      aa += s * s * sums.qq;
      ab += s * m * sums.q;
      bb += m * m * sum_w[g];
      xa += s * sums.xq;
      xb += m * sum_x[g];
    }
    if (!(total < best_error)) break;
    best_error = total;
    best = block;
    const float determinant = aa * bb - ab * ab;
    float refitted = xa * inverse(aa), minimum_refitted = minimum_unit;
    if (determinant > 0.0f) {
      refitted = (xa * bb - xb * ab) / determinant;
      minimum_refitted = (xa * ab - xb * aa) / determinant;
    }
    refitted = rounded_to_half(refitted);
    minimum_refitted = rounded_to_half(minimum_refitted);
    if (!(refitted > 0.0f) || !(minimum_refitted >= 0.0f)) break;
    if (refitted == unit && minimum_refitted == minimum_unit) break;
    unit = refitted;
    minimum_unit = minimum_refitted;
  }
  return best;
}

// ---- table: x ~ s table[q], for IQ4_NL ------------------------------------------------------------------------------

inline constexpr float kTable[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// Index of the table value nearest to v. No early exit, so that it vectorises.
inline int table_index(float v) {
  int index = 0;
  for (int j = 0; j < 15; ++j) index += v > 0.5f * (kTable[j] + kTable[j + 1]) ? 1 : 0;
  return index;
}

// The same value, without the lookup.
inline float table_value(float v) {
  float value = kTable[0];
  for (int j = 0; j < 15; ++j) value += v > 0.5f * (kTable[j] + kTable[j + 1]) ? kTable[j + 1] - kTable[j] : 0.0f;
  return value;
}

// The scale of 32 weights, a float16 value.
inline float fit_table_group(const float* x) {
  constexpr int kWeights = 32;
  float w[kWeights];
  importance<kWeights>(x, w);
  const float unit = inverse(extreme<kWeights>(x));
  BestScale best;
  auto offer = [&](float inverse_scale) {
    Lanes xq{}, qq{};
    for (int i = 0; i < kWeights; i += kLanes) {
      for (int l = 0; l < kLanes; ++l) {
        const float q = table_value(inverse_scale * x[i + l]);
        const float wq = w[i + l] * q;
        xq[l] += wq * x[i + l];
        qq[l] += wq * q;
      }
    }
    return best.offer({sum(xq), sum(qq)});
  };
  if (unit == 0.0f) return 0.0f;
  // the extreme goes to the end of the table on either side
  for (int t = -7; t <= 7; ++t) offer((kTable[0] + 4.0f * static_cast<float>(t)) * unit);
  for (int t = -7; t <= 7; ++t) offer((kTable[15] + 4.0f * static_cast<float>(t)) * unit);
  for (int round = 0; round < 4 && offer(inverse(best.scale)); ++round) {
  }
  return rounded_to_half(best.scale);
}

}  // namespace ingle::fit
