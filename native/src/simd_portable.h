// The SIMD wrapper of kernels_impl.h in the vector extensions of GCC and Clang, 16 bytes wide: works everywhere.
#pragma once
#include <cstdint>
#include <cstring>

#include "planes.h"

namespace ingle {
namespace {

struct PortableSimd {
  static constexpr int kLanes = 4;  // rows of a panel in one vector
  static constexpr bool kSignedBytes = false;
  static constexpr int kStreams = 1;  // panels in flight
  static constexpr bool kPrefetch = false;
  static constexpr int kRegisters = 16;

  using F = float __attribute__((vector_size(16)));
  using I = int32_t __attribute__((vector_size(16)));
  using U = uint32_t __attribute__((vector_size(16)));
  using I16 = int16_t __attribute__((vector_size(16)));
  using U16 = uint16_t __attribute__((vector_size(16)));

  template <class V>
  static V load_as(const void* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
  }
  static I load(const void* p) { return load_as<I>(p); }
  static F load_f32(const float* p) { return load_as<F>(p); }
  static void store(float* p, F v) { std::memcpy(p, &v, sizeof v); }
  static F zero() { return F{}; }
  static F set(float x) { return F{x, x, x, x}; }
  static F to_float(I v) { return __builtin_convertvector(v, F); }
  static F mul(F a, F b) { return a * b; }
  static F add(F a, F b) { return a + b; }
  static F fma(F a, F b, F c) { return a * b + c; }  // two roundings here

  static F load_f16(const void* p) {
    const auto h = load_as<uint16_t __attribute__((vector_size(8)))>(p);
    const U bits = __builtin_convertvector(h, U);
    const U magnitude = (U)((F)((bits & 0x7fff) << 13) * 0x1p112f);
    const U special = (U)((bits & 0x7c00) == 0x7c00) & 0x7f800000u;
    return (F)(magnitude | special | (bits & 0x8000) << 16);
  }
  static F load_bf16(const void* p) {
    const auto b = load_as<uint16_t __attribute__((vector_size(8)))>(p);
    return (F)(__builtin_convertvector(b, U) << 16);
  }
  static I load_u8(const uint8_t* p) { return I{p[0], p[1], p[2], p[3]}; }
  static I load_i8(const uint8_t* p) { return I{int8_t(p[0]), int8_t(p[1]), int8_t(p[2]), int8_t(p[3])}; }
  template <int Shift>
  static I shift_right(I v) {
    return (I)((U)v >> Shift);
  }
  static I mask_int(I v, int32_t mask) { return v & mask; }

  // Bytes, four to a lane. Shifts move bits between neighbouring bytes: mask what is kept.
  template <int Mask, int Right>
  static I field(I v) {
    return shift_bytes<Right>(v) & (Mask * 0x01010101);
  }
  template <int Mask>
  static I flip(I v) {
    return v ^ (I)((U{} + Mask) * 0x01010101u);
  }
  template <int Mask, int Right>
  static I merge(I low, I v) {
    return low | (shift_bytes<Right>(v) & (Mask * 0x01010101));
  }
  template <int Right>
  static I shift_bytes(I v) {
    if constexpr (Right >= 0) return (I)((U)v >> Right);
    else return (I)((U)v << -Right);
  }

  struct Table {
    uint8_t values[16];
  };
  static Table table(const uint8_t* values) { return load_as<Table>(values); }
  static I lookup(const Table& t, I index) {
    uint8_t b[16];
    std::memcpy(b, &index, sizeof b);
    for (uint8_t& x : b) x = t.values[x];
    return load(b);
  }

  // The products of codes of some quads, unsigned bytes, with signed activations. `Bits` says how large codes are.
  template <int Bits, int Quads>
  static I dot(I acc, const I* w, const int8_t* x) {
    for (int i = 0; i < Quads; ++i, x += 4) {
      const auto pair = [](int8_t a, int8_t b) { return I{} + int32_t(uint16_t(a) | uint32_t(uint16_t(b)) << 16); };
      const I16 even = (I16)((U16)w[i] & 0xff) * (I16)pair(x[0], x[2]);
      const I16 odd = (I16)((U16)w[i] >> 8) * (I16)pair(x[1], x[3]);
      if constexpr (Bits <= 6) {
        const I sum = (I)(even + odd);  // at most 2 * 63 * 127
        acc += (sum << 16 >> 16) + (sum >> 16);
      } else {
        acc += ((I)even << 16 >> 16) + ((I)even >> 16) + ((I)odd << 16 >> 16) + ((I)odd >> 16);
      }
    }
    return acc;
  }
  static void prefetch(const void*) {}
};

}  // namespace
}  // namespace ingle
