// ARMv8.2 with dot products: four vectors are a panel.
#include <arm_neon.h>

#include "simd.h"

namespace ingle {
namespace {

struct Simd : Vectors<16> {
  static constexpr bool kSignedBytes = true;
  static constexpr int kRegisters = 32;
  static constexpr int kStreams = 2;  // the hardware follows a few streams by itself

  static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
  static F load_f16(const void* p) { return vcvt_f32_f16(load_as<float16x4_t>(p)); }
  static void store_f16(void* p, F v) { vst1_f16(static_cast<float16_t*>(p), vcvt_f16_f32(v)); }
  static I round(F x) { return vcvtnq_s32_f32(x); }

  using Table = uint8x16_t;
  static Table table(const uint8_t* values) { return vld1q_u8(values); }
  static I lookup(Table t, I index) { return (I)vqtbl1q_u8(t, (uint8x16_t)index); }

  // Signed times signed: small codes are positive either way.
  template <int Bits, int Quads>
  static I dot(I acc, const I* w, const int8_t* x) {
    for (int i = 0; i < Quads; i += 4) {
      const int8x16_t quads = vld1q_s8(x + 4 * i);
      acc = vdotq_laneq_s32(acc, (int8x16_t)w[i], quads, 0);
      acc = vdotq_laneq_s32(acc, (int8x16_t)w[i + 1], quads, 1);
      acc = vdotq_laneq_s32(acc, (int8x16_t)w[i + 2], quads, 2);
      acc = vdotq_laneq_s32(acc, (int8x16_t)w[i + 3], quads, 3);
    }
    return acc;
  }
};

}  // namespace
}  // namespace ingle

#include "kernels_impl.h"
#include "vector_impl.h"

namespace ingle {

const Kernels* kernels_neon() {
  static constexpr Kernels table = make_kernels("neon", &kVectorOps);
  return &table;
}

}  // namespace ingle
