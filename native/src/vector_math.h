// Vectors of `kWidth` floats in the compiler's own vector extension, and the functions on them that libm has no vector
// form for. Only for files that define INGLE_VECTOR_NAMESPACE: each instruction set has its own copy of everything, so
// that the linker can never give one processor another's code. For the same reason nothing here uses the standard library.
#pragma once
#include <cstdint>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#define INGLE_INLINE static inline __attribute__((always_inline, unused))

namespace ingle::INGLE_VECTOR_NAMESPACE {

#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif

typedef float vf __attribute__((vector_size(kWidth * 4)));
typedef int32_t vi __attribute__((vector_size(kWidth * 4)));
typedef float half_vf __attribute__((vector_size(kWidth * 2)));
typedef double vd __attribute__((vector_size(kWidth * 4)));  // kWidth / 2 doubles
typedef int64_t vl __attribute__((vector_size(kWidth * 4)));

INGLE_INLINE vf load(const float* p) {
  vf v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
INGLE_INLINE void store(float* p, vf v) { __builtin_memcpy(p, &v, sizeof v); }
INGLE_INLINE vf all(float x) { return x - vf{}; }
INGLE_INLINE vf select(vi mask, vf yes, vf no) { return mask ? yes : no; }
INGLE_INLINE vf min(vf a, vf b) { return a < b ? a : b; }
// Where one of the two is NaN: b.
INGLE_INLINE vf max(vf a, vf b) {
#if defined(__AVX512F__)  // the compiler makes two instructions of the plain form; masked as in load below
  return reinterpret_cast<vf>(_mm512_maskz_max_ps(0xffff, reinterpret_cast<__m512>(a), reinterpret_cast<__m512>(b)));
#elif defined(__AVX2__)
  return reinterpret_cast<vf>(_mm256_max_ps(reinterpret_cast<__m256>(a), reinterpret_cast<__m256>(b)));
#else
  return a > b ? a : b;
#endif
}
INGLE_INLINE float max(float a, float b) { return a > b ? a : b; }
INGLE_INLINE float min(float a, float b) { return a < b ? a : b; }
INGLE_INLINE vf abs(vf x) { return reinterpret_cast<vf>(reinterpret_cast<vi>(x) & 0x7fffffff); }

// Over the lanes, by halves.
template <int...>
struct Lanes {};
#if defined(__AVX512F__)
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15>;
#elif defined(__AVX2__)
using AllLanes = Lanes<0, 1, 2, 3, 4, 5, 6, 7>;
#else
using AllLanes = Lanes<0, 1, 2, 3>;
#endif
template <int kDistance, int... I>
INGLE_INLINE vf crossed(vf v, Lanes<I...>) {
  return __builtin_shufflevector(v, v, (I ^ kDistance)...);
}
template <int kDistance = kWidth / 2>
INGLE_INLINE float sum(vf v) {
  v += crossed<kDistance>(v, AllLanes{});
  if constexpr (kDistance > 1) return sum<kDistance / 2>(v);
  return v[0];
}
template <int kDistance = kWidth / 2>
INGLE_INLINE float max(vf v) {
  v = max(v, crossed<kDistance>(v, AllLanes{}));
  if constexpr (kDistance > 1) return max<kDistance / 2>(v);
  return v[0];
}

// IEEE half precision as its bits.
typedef uint16_t f16;

INGLE_INLINE float to_float(float x) { return x; }
INGLE_INLINE float to_float(f16 h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#elif defined(__aarch64__)
  __fp16 x;
  __builtin_memcpy(&x, &h, 2);
  return x;
#else
  // Move exponent and mantissa into place and let a multiplication rescale; subnormals come out right as well.
  const uint32_t magnitude = static_cast<uint32_t>(h & 0x7fff) << 13;
  float x;
  __builtin_memcpy(&x, &magnitude, 4);
  x *= 0x1p112f;
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  bits |= static_cast<uint32_t>(h & 0x8000) << 16;
  __builtin_memcpy(&x, &bits, 4);
  return x;
#endif
}

// Nearest, ties to even. Finite values beyond the range become the largest half, so that a cache never holds infinities.
INGLE_INLINE void convert(float x, float* out) { *out = x; }
INGLE_INLINE void convert(float x, f16* out) {
  x = x > 65504.0f ? 65504.0f : x < -65504.0f ? -65504.0f : x;
#if defined(__F16C__)
  *out = _cvtss_sh(x, 0);
#elif defined(__aarch64__)
  const __fp16 h = static_cast<__fp16>(x);
  __builtin_memcpy(out, &h, 2);
#else
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  const uint32_t sign = bits >> 16 & 0x8000;
  float magnitude = x < 0 ? -x : x;
  if (!(x == x)) {
    *out = 0x7e00;
    return;
  }
  if (magnitude < 0x1p-14f) {  // subnormal halves are multiples of 2^-24: adding 1/2 rounds to them
    magnitude += 0.5f;
    __builtin_memcpy(&bits, &magnitude, 4);
    *out = static_cast<f16>(sign | (bits - 0x3f000000u));
    return;
  }
  __builtin_memcpy(&bits, &magnitude, 4);
  bits += 0xfff + (bits >> 13 & 1);  // round the 13 bits that go
  *out = static_cast<f16>(sign | ((bits - (112u << 23)) >> 13));
#endif
}

INGLE_INLINE vf load(const f16* p) {
#if defined(__AVX512F__)
  // The masked form, because g++ 12 takes the other's undefined operand for an uninitialised one.
  return reinterpret_cast<vf>(_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
#elif defined(__F16C__)
  return reinterpret_cast<vf>(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__aarch64__)
  typedef __fp16 vh __attribute__((vector_size(8)));
  vh h;
  __builtin_memcpy(&h, p, sizeof h);
  return __builtin_convertvector(h, vf);
#else
  vf v{};
  for (int i = 0; i < kWidth; ++i) v[i] = to_float(p[i]);
  return v;
#endif
}

INGLE_INLINE void store(f16* p, vf v) {
  v = max(select(v > all(65504.0f), all(65504.0f), v), all(-65504.0f));
#if defined(__AVX512F__)
  const __m256i half = _mm512_maskz_cvtps_ph(0xffff, reinterpret_cast<__m512>(v), 0);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), half);
#elif defined(__F16C__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(reinterpret_cast<__m256>(v), 0));
#else
  for (int i = 0; i < kWidth; ++i) convert(v[i], p + i);
#endif
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

}  // namespace ingle::INGLE_VECTOR_NAMESPACE
