// The SIMD wrapper of kernels_impl.h for WebAssembly: the portable one, and instructions of its own where they pay.
#pragma once
#include <wasm_simd128.h>

#include <cstdint>

#include "simd_portable.h"

namespace ingle {
namespace {

struct Simd : PortableSimd {
  static constexpr bool kSignedBytes = true;

  using Table = v128_t;
  static Table table(const uint8_t* values) { return wasm_v128_load(values); }
  static I lookup(Table t, I index) { return (I)wasm_i8x16_swizzle(t, (v128_t)index); }

  // Signed times signed: small codes are positive either way.
  template <int Bits, int Quads>
  static I dot(I acc, const I* w, const int8_t* x) {
    if constexpr (Quads == 8) return dot<Bits, 4>(dot<Bits, 4>(acc, w, x), w + 4, x + 16);
    const v128_t quads = wasm_v128_load(x);
#if defined(__wasm_relaxed_simd__)
    // Which of its two factors is signed and how far sums of two products may go is left to the machine; with codes
    // below 128, all agree.
    if constexpr (Bits < 8) {
      acc = (I)wasm_i32x4_relaxed_dot_i8x16_i7x16_add(all<0>(quads), (v128_t)w[0], (v128_t)acc);
      acc = (I)wasm_i32x4_relaxed_dot_i8x16_i7x16_add(all<1>(quads), (v128_t)w[1], (v128_t)acc);
      acc = (I)wasm_i32x4_relaxed_dot_i8x16_i7x16_add(all<2>(quads), (v128_t)w[2], (v128_t)acc);
      acc = (I)wasm_i32x4_relaxed_dot_i8x16_i7x16_add(all<3>(quads), (v128_t)w[3], (v128_t)acc);
      return acc;
    }
#endif
    const v128_t even = wasm_i16x8_shr(wasm_i16x8_shl(quads, 8), 8), odd = wasm_i16x8_shr(quads, 8);
    if constexpr (Bits < 6) {  // eight products of 31 * 127 fit into 16 bits
      const I16 sum = products<Bits, 0>(w, even, odd) + products<Bits, 1>(w, even, odd) +
                      products<Bits, 2>(w, even, odd) + products<Bits, 3>(w, even, odd);
      return acc + pairs(sum);
    } else if constexpr (Bits == 6) {  // four of 63 * 127 do
      acc += pairs(products<Bits, 0>(w, even, odd) + products<Bits, 1>(w, even, odd));
      return acc + pairs(products<Bits, 2>(w, even, odd) + products<Bits, 3>(w, even, odd));
    } else {  // two of 128 * 127 do
      acc += pairs(products<Bits, 0>(w, even, odd)) + pairs(products<Bits, 1>(w, even, odd));
      return acc + (pairs(products<Bits, 2>(w, even, odd)) + pairs(products<Bits, 3>(w, even, odd)));
    }
  }

 private:
  template <int Lane>
  static v128_t all(v128_t v) {
    return wasm_i32x4_shuffle(v, v, Lane, Lane, Lane, Lane);
  }
  static I pairs(I16 v) { return (I)wasm_i32x4_extadd_pairwise_i16x8((v128_t)v); }
  // Columns 0 and 2 of a quad times theirs, plus 1 and 3.
  template <int Bits, int Quad>
  static I16 products(const I* w, v128_t even, v128_t odd) {
    const I16 codes = (I16)w[Quad];
    const I16 low = Bits < 8 ? codes & 0xff : codes << 8 >> 8;
    return low * (I16)all<Quad>(even) + (codes >> 8) * (I16)all<Quad>(odd);
  }
};

}  // namespace
}  // namespace ingle
