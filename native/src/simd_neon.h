// The SIMD wrapper of kernels_impl.h for ARMv8.2 with dot products: four vectors are a panel.
#pragma once
#include <arm_neon.h>

#include <cstdint>

namespace ingle {
namespace {

struct Simd {
  static constexpr int kLanes = 4;
  static constexpr bool kSignedBytes = true;
  static constexpr int kStreams = 2;
  static constexpr bool kPrefetch = false;  // the hardware follows a few streams by itself
  static constexpr int kRegisters = 32;

  using F = float32x4_t;
  using I = int32x4_t;

  static I load(const void* p) { return vreinterpretq_s32_u8(vld1q_u8(static_cast<const uint8_t*>(p))); }
  static F load_f32(const float* p) { return vld1q_f32(p); }
  static void store(float* p, F v) { vst1q_f32(p, v); }
  static F zero() { return vdupq_n_f32(0); }
  static F set(float x) { return vdupq_n_f32(x); }
  static F to_float(I v) { return vcvtq_f32_s32(v); }
  static F mul(F a, F b) { return vmulq_f32(a, b); }
  static F add(F a, F b) { return vaddq_f32(a, b); }
  static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }

  static F load_f16(const void* p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(static_cast<const uint16_t*>(p))));
  }
  static F load_bf16(const void* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(static_cast<const uint16_t*>(p)), 16));
  }
  static I load_u8(const uint8_t* p) { return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(vmovl_u8(four(p))))); }
  static I load_i8(const uint8_t* p) { return vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(four(p))))); }
  template <int Shift>
  static I shift_right(I v) {
    return vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(v), Shift));
  }
  static I mask_int(I v, int32_t mask) { return vandq_s32(v, vdupq_n_s32(mask)); }

  template <int Right>
  static I shift_bytes(I v) {
    if constexpr (Right > 0) return from(vshrq_n_u8(bytes(v), Right));
    else if constexpr (Right < 0) return from(vshlq_n_u8(bytes(v), -Right));
    else return v;
  }
  template <int Mask, int Right>
  static I field(I v) {
    return from(vandq_u8(bytes(shift_bytes<Right>(v)), vdupq_n_u8(Mask)));
  }
  template <int Mask>
  static I flip(I v) {
    return from(veorq_u8(bytes(v), vdupq_n_u8(Mask)));
  }
  template <int Mask, int Right>
  static I merge(I low, I v) {
    return vorrq_s32(low, field<Mask, Right>(v));
  }

  using Table = uint8x16_t;
  static Table table(const uint8_t* values) { return vld1q_u8(values); }
  static I lookup(Table t, I index) { return from(vqtbl1q_u8(t, bytes(index))); }

  // Signed times signed: small codes are positive either way.
  template <int Bits, int Quads>
  static I dot(I acc, const I* w, const int8_t* x) {
    for (int i = 0; i < Quads; i += 4) {
      const int8x16_t quads = vld1q_s8(x + 4 * i);
      acc = vdotq_laneq_s32(acc, vreinterpretq_s8_s32(w[i]), quads, 0);
      acc = vdotq_laneq_s32(acc, vreinterpretq_s8_s32(w[i + 1]), quads, 1);
      acc = vdotq_laneq_s32(acc, vreinterpretq_s8_s32(w[i + 2]), quads, 2);
      acc = vdotq_laneq_s32(acc, vreinterpretq_s8_s32(w[i + 3]), quads, 3);
    }
    return acc;
  }
  static void prefetch(const void*) {}

 private:
  static uint8x16_t bytes(I v) { return vreinterpretq_u8_s32(v); }
  static I from(uint8x16_t v) { return vreinterpretq_s32_u8(v); }
  static uint8x8_t four(const uint8_t* p) {
    uint32_t word;
    __builtin_memcpy(&word, p, sizeof word);
    return vreinterpret_u8_u32(vdup_n_u32(word));
  }
};

}  // namespace
}  // namespace ingle
