// What vector operations are made of: the set's vectors of floats with names of their own, and the functions on them
// that libm has no vector form for. Like everything for one instruction set it uses no code that the linker could share
// (kernels.h), and so nothing of the standard library but types.
#pragma once
#include <cstdint>
#include <utility>

#include "simd.h"

namespace ingle {
namespace {

constexpr int kWidth = Simd::kLanes;
using vf = Simd::F;
using vi = Simd::S;
using half_vf = Simd::Of<float, kWidth * 2>;
using vd = Simd::Of<double>;  // kWidth / 2 doubles
using vl = Simd::Of<int64_t>;

INGLE_INLINE vf load(const float* p) { return Simd::load_f32(p); }
INGLE_INLINE void store(float* p, vf v) { Simd::store(p, v); }
INGLE_INLINE vf all(float x) { return Simd::set(x); }
INGLE_INLINE vf select(vi mask, vf yes, vf no) { return mask ? yes : no; }
INGLE_INLINE vf min(vf a, vf b) { return a < b ? a : b; }
INGLE_INLINE vf max(vf a, vf b) { return Simd::max(a, b); }
INGLE_INLINE float max(float a, float b) { return a > b ? a : b; }
INGLE_INLINE float min(float a, float b) { return a < b ? a : b; }
INGLE_INLINE vf abs(vf x) { return reinterpret_cast<vf>(reinterpret_cast<vi>(x) & 0x7fffffff); }

// Over the lanes, by halves.
template <int kDistance, int... kLane>
INGLE_INLINE vf crossed(vf v, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(v, v, (kLane ^ kDistance)...);
}
template <int kDistance = kWidth / 2>
INGLE_INLINE float sum(vf v) {
  v += crossed<kDistance>(v, std::make_integer_sequence<int, kWidth>());
  if constexpr (kDistance > 1) return sum<kDistance / 2>(v);
  return v[0];
}
template <int kDistance = kWidth / 2>
INGLE_INLINE float max(vf v) {
  v = max(v, crossed<kDistance>(v, std::make_integer_sequence<int, kWidth>()));
  if constexpr (kDistance > 1) return max<kDistance / 2>(v);
  return v[0];
}

// IEEE half precision as its bits. Finite values beyond the range become the largest half, so that a cache never holds
// infinities.
typedef uint16_t f16;

INGLE_INLINE vf load(const f16* p) { return Simd::load_f16(p); }
INGLE_INLINE void store(f16* p, vf v) {
  Simd::store_f16(p, max(select(v > all(65504.0f), all(65504.0f), v), all(-65504.0f)));
}
INGLE_INLINE void convert(float x, float* out) { *out = x; }
INGLE_INLINE void convert(float x, f16* out) {
  f16 lanes[kWidth];
  store(lanes, all(x));
  *out = lanes[0];
}

// e^x to 2e-7 relative; 0 below -87.3 (where the true value leaves the normal floats), e^88 above 88, NaN of NaN.
// x = n ln2 + r with |r| <= ln2/2, a Taylor polynomial in r, and 2^n made of exponent bits.
INGLE_INLINE vf exp_up_to_88(vf x) {
  const vf in = max(all(-87.3f), x);
  const vf shifted = in * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the low bits of the sum are the nearest integer
  const vf n = shifted - 12582912.0f;
  const vf r = (in - n * 0.693145752f) - n * 1.42860677e-6f;
  vf y = r * (1.0f / 720) + (1.0f / 120);
  y = y * r + (1.0f / 24);
  y = y * r + (1.0f / 6);
  y = y * r + 0.5f;
  y = y * r + 1.0f;
  y = y * r + 1.0f;
  const vi power = (reinterpret_cast<vi>(shifted) - (0x4b400000 - 127)) << 23;
  return select(x < all(-87.3f), vf{}, y * reinterpret_cast<vf>(power));
}
INGLE_INLINE vf exp(vf x) { return exp_up_to_88(select(x > all(88.0f), all(88.0f), x)); }

// The same in double, to 1e-15; 0 below -700, NaN of NaN.
INGLE_INLINE vd exp(vd x) {
  const vd low = -700.0 - vd{}, high = 700.0 - vd{};
  vd in = x < low ? low : x;
  in = in > high ? high : in;
  const vd shifted = in * 1.4426950408889634 + 0x1.8p52;
  const vd n = shifted - 0x1.8p52;
  const vd r = (in - n * 0x1.62e42fefp-1) - n * 0x1.473de6af278edp-34;
  vd y = r * (1.0 / 479001600) + (1.0 / 39916800);
  y = y * r + (1.0 / 3628800);
  y = y * r + (1.0 / 362880);
  y = y * r + (1.0 / 40320);
  y = y * r + (1.0 / 5040);
  y = y * r + (1.0 / 720);
  y = y * r + (1.0 / 120);
  y = y * r + (1.0 / 24);
  y = y * r + (1.0 / 6);
  y = y * r + 0.5;
  y = y * r + 1.0;
  y = y * r + 1.0;
  const vl power = (reinterpret_cast<vl>(shifted) - (0x4338000000000000 - 1023)) << 52;
  y = y * reinterpret_cast<vd>(power);
  return x < low ? vd{} : y;
}

// tanh: its Taylor series where the quotient of exponentials would cancel.
INGLE_INLINE vf tanh(vf x) {
  const vf a = abs(x), z = x * x;
  const vf e = exp(a * -2.0f);
  const vf large = (1.0f - e) / (1.0f + e);
  const vf series =
      x + x * z * (-1.0f / 3 + z * (2.0f / 15 + z * (-17.0f / 315 + z * (62.0f / 2835 + z * (-1382.0f / 155925)))));
  return select(a < all(0.3f), series, select(x < vf{}, -large, large));
}

// The normal distribution function. erfc(z) e^(z^2) is t P(t) with t = 1 / (1 + 0.35 z): P is a least-squares fit of
// relative error 7e-9, so the tail keeps its relative accuracy.
INGLE_INLINE vf normal_cdf(vf x) {
  const vf z = abs(x) * 0.707106781f;
  const vf t = 1.0f / (1.0f + z * 0.35f);
  vf p = t * 0.0384018785f - 0.158932783f;
  p = p * t + 0.181471837f;
  p = p * t - 0.0277198523f;
  p = p * t + 0.0870306143f;
  p = p * t + 0.146035795f;
  p = p * t + 0.151188407f;
  p = p * t + 0.187901924f;
  p = p * t + 0.197138412f;
  p = p * t + 0.197483775f;
  const vf tail = p * t * exp(-z * z) * 0.5f;
  return select(x < vf{}, tail, 1.0f - tail);
}

// 2^x for x below 128, to 2e-7 relative (rough: 8e-5); at least 2^-100, so that nothing becomes denormal,
// which is slow. NaN of NaN. What x has beyond its floor goes through a minimax polynomial.
template <bool kRough>
INGLE_INLINE vf power_of_two(vf x) {
  x = max(all(-100.0f), x);
#if defined(__AVX512F__)
  const vf r = reinterpret_cast<vf>(_mm512_maskz_reduce_ps(0xffff, reinterpret_cast<__m512>(x), 9));
#else
  const vf shifted = (x - 0.5f) + 12582912.0f;  // 1.5 * 2^23: the low bits of the sum are the nearest integer
  const vf r = x - (shifted - 12582912.0f);
#endif
  vf y;
  if constexpr (kRough) {
    y = r * 0.078024521f + 0.22606716f;
    y = y * r + 0.69583356f;
    y = y * r + 0.9999252f;
  } else {
    y = r * 0.0018775767f + 0.0089893397f;
    y = y * r + 0.055826318f;
    y = y * r + 0.24015361f;
    y = y * r + 0.69315308f;
    y = y * r + 0.99999994f;
  }
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(_mm512_maskz_scalef_ps(0xffff, reinterpret_cast<__m512>(y), reinterpret_cast<__m512>(x)));
#else
  return y * reinterpret_cast<vf>((reinterpret_cast<vi>(shifted) - (0x4b400000 - 127)) << 23);
#endif
}

}  // namespace
}  // namespace ingle
