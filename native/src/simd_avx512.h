// The SIMD wrapper of kernels_impl.h for AVX-512 with VNNI: one vector is a whole panel.
#pragma once
// GCC 12 takes the deliberately undefined values in its own header for mistakes (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif

#include <cstdint>

namespace ingle {
namespace {

struct Simd {
  static constexpr int kLanes = 16;
  static constexpr bool kSignedBytes = false;
  static constexpr int kStreams = 3;
  static constexpr bool kPrefetch = true;
  static constexpr int kRegisters = 32;

  using F = __m512;
  using I = __m512i;

  static I load(const void* p) { return _mm512_load_si512(p); }
  static F load_f32(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static F zero() { return _mm512_setzero_ps(); }
  static F set(float x) { return _mm512_set1_ps(x); }
  static F to_float(I v) { return _mm512_cvtepi32_ps(v); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }

  static F load_f16(const void* p) { return _mm512_cvtph_ps(_mm256_load_si256(static_cast<const __m256i*>(p))); }
  static F load_bf16(const void* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_load_si256(static_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  static I load_u8(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static I load_i8(const uint8_t* p) {
    return _mm512_cvtepi8_epi32(_mm_load_si128(reinterpret_cast<const __m128i*>(p)));
  }
  template <int Shift>
  static I shift_right(I v) {
    return _mm512_srli_epi32(v, Shift);
  }
  static I mask_int(I v, int32_t mask) { return _mm512_and_si512(v, _mm512_set1_epi32(mask)); }

  template <int Right>
  static I shift_bytes(I v) {
    if constexpr (Right > 0) return _mm512_srli_epi16(v, Right);
    else if constexpr (Right < 0) return _mm512_slli_epi16(v, -Right);
    else return v;
  }
  template <int Mask, int Right>
  static I field(I v) {
    return _mm512_and_si512(shift_bytes<Right>(v), _mm512_set1_epi8(Mask));
  }
  template <int Mask>
  static I flip(I v) {
    return _mm512_xor_si512(v, _mm512_set1_epi8(char(Mask)));
  }
  template <int Mask, int Right>
  static I merge(I low, I v) {  // low | (v & mask)
    return _mm512_ternarylogic_epi32(low, shift_bytes<Right>(v), _mm512_set1_epi8(Mask), 0xf8);
  }

  using Table = __m512i;
  static Table table(const uint8_t* values) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
  }
  static I lookup(Table t, I index) { return _mm512_shuffle_epi8(t, index); }

  template <int Bits, int Quads>
  static I dot(I acc, const I* w, const int8_t* x) {
    const auto* quads = reinterpret_cast<const int32_t*>(x);
    // The intrinsic would take an instruction more to spread four bytes over the lanes, and registers to keep them.
    for (int i = 0; i < Quads; ++i) __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w[i]), "m"(quads[i]));
    return acc;
  }
  // GCC takes a function that only prefetches for one without effect and drops its calls: hence asm.
  static void prefetch(const void* p) { __asm__ volatile("prefetcht0 %0" : : "m"(*static_cast<const char*>(p))); }
};

}  // namespace
}  // namespace ingle
