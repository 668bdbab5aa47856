// WebAssembly: instructions of its own where they pay. There is no choice among sets at run time: this table is the one
// that a module has.
#include <wasm_simd128.h>

#include "simd.h"

namespace ingle {
namespace {

using I16 = int16_t __attribute__((vector_size(16)));

struct Simd : Vectors<16> {
  static constexpr bool kSignedBytes = true;
  static constexpr int kRegisters = 32;  // engines keep vectors on the stack anyhow: the more rows the better

  using Table = v128_t;
  static Table table(const uint8_t* values) { return wasm_v128_load(values); }
  static I lookup(Table t, I index) { return (I)wasm_i8x16_swizzle(t, (v128_t)index); }

  // Signed times signed: small codes are positive either way. Products are summed in 16 bits as long as they fit.
  template <int Bits, int Quads>
  static I dot(I acc, const I* w, const int8_t* x) {
    if constexpr (Quads == 8) return dot<Bits, 4>(dot<Bits, 4>(acc, w, x), w + 4, x + 16);
    const Activations in(x);
    const I16 sum[] = {products<Bits, 0>(w, in), products<Bits, 1>(w, in), products<Bits, 2>(w, in),
                       products<Bits, 3>(w, in)};
    if constexpr (Bits < 6) return acc + pairs((sum[0] + sum[1]) + (sum[2] + sum[3]));  // 8 * 31 * 127
    else if constexpr (Bits < 8) return acc + (pairs(sum[0] + sum[1]) + pairs(sum[2] + sum[3]));  // 4 * 63 * 127
    else return acc + ((pairs(sum[0]) + pairs(sum[1])) + (pairs(sum[2]) + pairs(sum[3])));  // 2 * 128 * 127
  }

 private:
  struct Activations {
    v128_t quads, even, odd;  // four of a row's quads, and their columns 0 and 2, 1 and 3 in 16 bits
    explicit Activations(const int8_t* x)
        : quads(wasm_v128_load(x)), even(wasm_i16x8_shr(wasm_i16x8_shl(quads, 8), 8)), odd(wasm_i16x8_shr(quads, 8)) {}
  };
  template <int Lane>
  static v128_t all(v128_t v) {
    return wasm_i32x4_shuffle(v, v, Lane, Lane, Lane, Lane);
  }
  static I pairs(I16 v) { return (I)wasm_i32x4_extadd_pairwise_i16x8((v128_t)v); }
  // The four products of a quad in each row, summed to two.
  template <int Bits, int Quad>
  static I16 products(const I* w, const Activations& x) {
#if defined(__wasm_relaxed_simd__)
    // Codes from 128 on, and sums that leave 16 bits, would be left to the machine.
    if constexpr (Bits < 8) return (I16)wasm_i16x8_relaxed_dot_i8x16_i7x16(all<Quad>(x.quads), (v128_t)w[Quad]);
#endif
    const I16 codes = (I16)w[Quad];
    const I16 even = Bits < 8 ? codes & 0xff : codes << 8 >> 8;
    return even * (I16)all<Quad>(x.even) + (codes >> 8) * (I16)all<Quad>(x.odd);
  }
};

}  // namespace
}  // namespace ingle

#include "kernels_impl.h"
#include "vector_impl.h"

namespace ingle {

const Kernels& kernels() {
  static constexpr Kernels table = make_kernels("wasm", &kVectorOps);
  return table;
}

const char* isa_name() { return kernels().name; }

const VectorOps& vector_ops() { return kVectorOps; }

}  // namespace ingle
