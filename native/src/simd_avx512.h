// AVX-512 with VNNI: one vector is a whole panel.
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

#include "simd.h"

namespace ingle {
namespace {

struct Simd : Vectors<64, long long> {
  static constexpr int kRegisters = 32;
  static constexpr int kStreams = 3;
  static constexpr bool kPrefetch = true;

  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F load_f16(const void* p) { return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p))); }
  static void store_f16(void* p, F v) { _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(v, 0)); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static I load_u8(const uint8_t* p) { return _mm512_cvtepu8_epi32(load_as<__m128i>(p)); }
  static I load_i8(const uint8_t* p) { return _mm512_cvtepi8_epi32(load_as<__m128i>(p)); }
  static I round(F x) { return _mm512_cvtps_epi32(x); }

  using Table = __m512i;
  static Table table(const uint8_t* values) { return _mm512_broadcast_i32x4(load_as<__m128i>(values)); }
  static I lookup(Table t, I index) { return _mm512_shuffle_epi8(t, index); }

  // The intrinsic would take an instruction more to spread four bytes over the lanes, and registers to keep them.
  template <int Bits, int Quads>
  static I dot(I acc, const I* w, const int8_t* x) {
    const auto* quads = reinterpret_cast<const int32_t*>(x);
    for (int i = 0; i < Quads; ++i) __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(acc) : "v"(w[i]), "m"(quads[i]));
    return acc;
  }
};

}  // namespace
}  // namespace ingle
