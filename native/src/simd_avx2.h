// AVX2, and AVX-VNNI where the compiler may use it: two vectors are a panel.
#pragma once
#include <immintrin.h>

#include "simd.h"

namespace ingle {
namespace {

struct Simd : Vectors<32, long long> {
#if defined(__AVXVNNI__)
  static constexpr bool kSignedBytes = false;
#else
  static constexpr bool kSignedBytes = true;
#endif
  static constexpr int kStreams = 2;
  static constexpr bool kPrefetch = true;

  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F load_f16(const void* p) { return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p))); }
  static void store_f16(void* p, F v) { _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_cvtps_ph(v, 0)); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static I load_u8(const uint8_t* p) { return _mm256_cvtepu8_epi32(_mm_loadu_si64(p)); }
  static I load_i8(const uint8_t* p) { return _mm256_cvtepi8_epi32(_mm_loadu_si64(p)); }
  static I round(F x) { return _mm256_cvtps_epi32(x); }

  using Table = __m256i;
  static Table table(const uint8_t* values) { return _mm256_broadcastsi128_si256(load_as<__m128i>(values)); }
  static I lookup(Table t, I index) { return _mm256_shuffle_epi8(t, index); }

#if defined(__AVXVNNI__)
  template <int Bits, int Quads>
  static I dot(I acc, const I* w, const int8_t* x) {
    for (int i = 0; i < Quads; ++i) acc = _mm256_dpbusd_avx_epi32(acc, w[i], quad(x + 4 * i));
    return acc;
  }
#else
  // maddubs adds two products in 16 bits and saturates: codes of up to 4 bits may be summed over 8 quads, of 5 bits over
  // four (4 * 2 * 31 * 127 < 2^15), of 6 bits over two. Whole bytes do not fit at all: there the sign of the weight goes
  // to the activation, |w| * (sign(w) x), of which even two products fit (2 * 128 * 127 < 2^15).
  template <int Bits, int Quads>
  static I dot(I acc, const I* w, const int8_t* x) {
    constexpr int fit = Bits <= 4 ? 8 : Bits == 5 ? 4 : Bits == 6 ? 2 : 1, together = fit < Quads ? fit : Quads;
    for (int i = 0; i < Quads; i += together) {
      I sum{};
      for (int j = i; j < i + together; ++j) {
        const I y = quad(x + 4 * j);
        if constexpr (Bits <= 6) sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(w[j], y));
        else sum = _mm256_maddubs_epi16(_mm256_abs_epi8(w[j]), _mm256_sign_epi8(y, w[j]));
      }
      acc = _mm256_add_epi32(acc, _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
    }
    return acc;
  }
#endif

 private:
  static I quad(const int8_t* x) { return _mm256_set1_epi32(load_as<int32_t>(x)); }
};

}  // namespace
}  // namespace ingle
