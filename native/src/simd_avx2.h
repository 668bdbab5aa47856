// The SIMD wrapper of kernels_impl.h for AVX2, and for AVX-VNNI where the compiler may use it: two vectors are a panel.
#pragma once
#include <immintrin.h>

#include <cstdint>

namespace ingle {
namespace {

struct Simd {
  static constexpr int kLanes = 8;
#if defined(__AVXVNNI__)
  static constexpr bool kSignedBytes = false;
#else
  static constexpr bool kSignedBytes = true;
#endif
  static constexpr int kStreams = 2;
  static constexpr bool kPrefetch = true;
  static constexpr int kRegisters = 16;

  using F = __m256;
  using I = __m256i;

  static I load(const void* p) { return _mm256_load_si256(static_cast<const __m256i*>(p)); }
  static F load_f32(const float* p) { return _mm256_loadu_ps(p); }
  static void store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static F zero() { return _mm256_setzero_ps(); }
  static F set(float x) { return _mm256_set1_ps(x); }
  static F to_float(I v) { return _mm256_cvtepi32_ps(v); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }

  static F load_f16(const void* p) { return _mm256_cvtph_ps(_mm_load_si128(static_cast<const __m128i*>(p))); }
  static F load_bf16(const void* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_load_si128(static_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  static I load_u8(const uint8_t* p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  static I load_i8(const uint8_t* p) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  }
  template <int Shift>
  static I shift_right(I v) {
    return _mm256_srli_epi32(v, Shift);
  }
  static I mask_int(I v, int32_t mask) { return _mm256_and_si256(v, _mm256_set1_epi32(mask)); }

  template <int Right>
  static I shift_bytes(I v) {
    if constexpr (Right > 0) return _mm256_srli_epi16(v, Right);
    else if constexpr (Right < 0) return _mm256_slli_epi16(v, -Right);
    else return v;
  }
  template <int Mask, int Right>
  static I field(I v) {
    return _mm256_and_si256(shift_bytes<Right>(v), _mm256_set1_epi8(Mask));
  }
  template <int Mask>
  static I flip(I v) {
    return _mm256_xor_si256(v, _mm256_set1_epi8(char(Mask)));
  }
  template <int Mask, int Right>
  static I merge(I low, I v) {
    return _mm256_or_si256(low, field<Mask, Right>(v));
  }

  using Table = __m256i;
  static Table table(const uint8_t* values) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
  }
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
      I sum = _mm256_setzero_si256();
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
  // GCC takes a function that only prefetches for one without effect and drops its calls: hence asm.
  static void prefetch(const void* p) { __asm__ volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p))); }

 private:
  static __m256i quad(const int8_t* x) { return _mm256_set1_epi32(*reinterpret_cast<const int32_t*>(x)); }
};

}  // namespace
}  // namespace ingle
