// The two products of attention by matrix tiles (AMX): factors are rounded to bfloat16, sums are floats.
// Included by attention_impl.h where the flags allow it.
#pragma once
#include "tile_unit.h"
#include "vector_math.h"
#include "vector_ops.h"

namespace ingle {
namespace {

// c [16, 16 N] (+)= a [16, 32 k] b; the k tiles of a lie in rows that step by lda bytes, those of b by `step` bytes.
template <int N>
INGLE_INLINE void multiply_tiles(const uint8_t* a, int64_t lda, const uint8_t* b, int64_t step, float* c, int64_t ldc,
                                 int64_t k, bool accumulate) {
  const int64_t c_step = ldc * static_cast<int64_t>(sizeof(float));
  if (accumulate) {
    INGLE_TILE_LOAD(0, c, c_step);
    if constexpr (N > 1) INGLE_TILE_LOAD(1, c + 16, c_step);
    if constexpr (N > 2) INGLE_TILE_LOAD(2, c + 32, c_step);
    if constexpr (N > 3) INGLE_TILE_LOAD(3, c + 48, c_step);
  } else {
    INGLE_TILE_ZERO(0);
    if constexpr (N > 1) INGLE_TILE_ZERO(1);
    if constexpr (N > 2) INGLE_TILE_ZERO(2);
    if constexpr (N > 3) INGLE_TILE_ZERO(3);
  }
  for (int64_t i = 0; i < k; ++i, a += 64, b += step) {
    INGLE_TILE_LOAD(4, a, lda);
    INGLE_TILE_LOAD(5, b, 64);
    INGLE_TILE_MULTIPLY(0, 4, 5);
    if constexpr (N > 1) {
      INGLE_TILE_LOAD(6, b + 1024, 64);
      INGLE_TILE_MULTIPLY(1, 4, 6);
    }
    if constexpr (N > 2) {
      INGLE_TILE_LOAD(7, b + 2048, 64);
      INGLE_TILE_MULTIPLY(2, 4, 7);
    }
    if constexpr (N > 3) {
      INGLE_TILE_LOAD(5, b + 3072, 64);
      INGLE_TILE_MULTIPLY(3, 4, 5);
    }
  }
  INGLE_TILE_STORE(0, c, c_step);
  if constexpr (N > 1) INGLE_TILE_STORE(1, c + 16, c_step);
  if constexpr (N > 2) INGLE_TILE_STORE(2, c + 32, c_step);
  if constexpr (N > 3) INGLE_TILE_STORE(3, c + 48, c_step);
}

struct AsTiles {
  using Left = uint16_t;
  static constexpr int64_t kPages = 8;
  static constexpr bool kRough = true;  // weights are rounded to 8 bits
  struct Page {
    const uint8_t* p;
    int64_t step;  // bytes
  };
  static constexpr int64_t kTile = 16 * 64;  // bytes

  // [k / 32][n / 16] tiles of [16 pairs of rows][16 columns][2]; rows from k on are zero.
  template <class B>
  INGLE_INLINE Page prepare(B page, int64_t k, int64_t n, Left* buffer) {
    const __m512i interleave =
        _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19,
                         3, 18, 2, 17, 1, 16, 0);
    auto* tiles = reinterpret_cast<uint8_t*>(buffer);
    for (int64_t row = 0; row < (k + 31) / 32 * 32; row += 2)
      for (int64_t j = 0; j < n; j += 16) {
        const vf even = row < k ? page(row, j) : vf{}, odd = row + 1 < k ? page(row + 1, j) : vf{};
        const __m512bh both = _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(odd), reinterpret_cast<__m512>(even));
        _mm512_store_si512(tiles + (row / 32 * n + j) * 64 + row % 32 * 32,
                           _mm512_permutexvar_epi16(interleave, reinterpret_cast<__m512i>(both)));
      }
    return {tiles, n * 64};
  }

  static void product(const Left* a, int64_t lda, Page b, float* c, int64_t ldc, int64_t m, int64_t k, int64_t n,
                      bool accumulate) {
    const int64_t steps = (k + 31) / 32;
    for (; m > 0; m -= 16, a += 16 * lda, c += 16 * ldc) {
      const auto* left = reinterpret_cast<const uint8_t*>(a);
      int64_t j = 0;
      for (; j + 64 <= n; j += 64) multiply_tiles<4>(left, lda * 2, b.p + j * 64, b.step, c + j, ldc, steps, accumulate);
      if (n - j == 48) multiply_tiles<3>(left, lda * 2, b.p + j * 64, b.step, c + j, ldc, steps, accumulate);
      if (n - j == 32) multiply_tiles<2>(left, lda * 2, b.p + j * 64, b.step, c + j, ldc, steps, accumulate);
      if (n - j == 16) multiply_tiles<1>(left, lda * 2, b.p + j * 64, b.step, c + j, ldc, steps, accumulate);
    }
  }

  INGLE_INLINE void put(const vf* v, int n, uint16_t* to) {
#pragma GCC unroll 16
    for (int i = 0; i < n; i += 2) {
      const __m512bh both = _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(v[i + 1]), reinterpret_cast<__m512>(v[i]));
      _mm512_store_si512(to + i * 16, reinterpret_cast<__m512i>(both));
    }
  }
};

}  // namespace
}  // namespace ingle
