// What kernels are written in: vectors of floats and of 32-bit integers, in the vector extensions of GCC and Clang.
//
// Plain code, for vectors of any size and every processor. The file of an instruction set derives its `Simd` from
// Vectors and replaces what the set has better instructions for; dot() and the constants decide its speed.
#pragma once
#include <cstdint>

#define INGLE_INLINE inline __attribute__((always_inline))

namespace ingle {
namespace {

template <class T, int Bytes>
struct VectorOf {
  typedef T type __attribute__((vector_size(Bytes)));
};

template <int Bytes, class Lane = int32_t>
struct Vectors {
  template <class T, int Size = Bytes>
  using Of = typename VectorOf<T, Size>::type;
  using F = Of<float>;
  using I = Of<Lane>;  // as the set's own functions take integers of any size
  using S = Of<int32_t>;
  using U = Of<uint32_t>;
  static constexpr int kLanes = Bytes / 4;

  static constexpr bool kSignedBytes = false;  // whether dot() takes 8-bit codes as signed
  static constexpr int kRegisters = 16;
  static constexpr int kStreams = 1;        // panels in flight for one row of activations
  static constexpr bool kPrefetch = false;  // whether what lies ahead in them is asked for

  template <class V>
  INGLE_INLINE static V load_as(const void* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  INGLE_INLINE static I load(const void* p) { return load_as<I>(p); }
  INGLE_INLINE static F load_f32(const float* p) { return load_as<F>(p); }
  INGLE_INLINE static void store(float* p, F v) { __builtin_memcpy(p, &v, sizeof v); }
  INGLE_INLINE static F set(float x) { return x - F{}; }
  INGLE_INLINE static F fma(F a, F b, F c) { return a * b + c; }  // two roundings here, one where there is hardware

  template <class T>
  INGLE_INLINE static S widen(const void* p) {
    return __builtin_convertvector(load_as<Of<T, sizeof(T) * kLanes>>(p), S);
  }
  INGLE_INLINE static I load_u8(const uint8_t* p) { return (I)widen<uint8_t>(p); }
  INGLE_INLINE static I load_i8(const uint8_t* p) { return (I)widen<int8_t>(p); }
  INGLE_INLINE static F load_bf16(const void* p) { return (F)(widen<uint16_t>(p) << 16); }
  INGLE_INLINE static F load_f16(const void* p) {
    const U bits = (U)widen<uint16_t>(p);
    const U magnitude = (U)((F)((bits & 0x7fff) << 13) * 0x1p112f);
    const U special = (U)((bits & 0x7c00) == 0x7c00) & 0x7f800000u;
    return (F)(magnitude | special | (bits & 0x8000) << 16);
  }
  INGLE_INLINE static F to_float(I v) { return __builtin_convertvector((S)v, F); }
  // Nearest, to even. Through memory: the compiler may not join the addition with what made x.
  INGLE_INLINE static I round(F x) {
    __asm__("" : "+m"(x));
    return (I)((S)(x + 12582912.0f) - 0x4b400000);  // 1.5 * 2^23: the low bits of the sum are the nearest integer
  }

  // Bytes, four to a lane, each shifted right (left if negative) and masked.
  template <int Mask, int Right>
  INGLE_INLINE static I field(I v) {
    constexpr uint32_t mask = Mask * 0x01010101u;
    if constexpr (Right >= 0) return (I)((U)v >> Right & mask);
    else return (I)((U)v << -Right & mask);
  }
  template <int Mask, int Right>
  INGLE_INLINE static I merge(I low, I v) {
    return (I)((U)low | (U)field<Mask, Right>(v));
  }
  template <int Mask>
  INGLE_INLINE static I flip(I v) {
    return (I)((U)v ^ Mask * 0x01010101u);
  }

  struct Table {
    uint8_t values[16];
  };
  INGLE_INLINE static Table table(const uint8_t* values) { return load_as<Table>(values); }
  INGLE_INLINE static I lookup(const Table& t, I index) {
    uint8_t b[Bytes];
    __builtin_memcpy(b, &index, sizeof b);
    for (uint8_t& x : b) x = t.values[x];
    return load(b);
  }

  // acc + the products of codes of some quads, bytes of at most `Bits` bits, with signed activations.
  template <int Bits, int Quads>
  INGLE_INLINE static I dot(I acc, const I* w, const int8_t* x) {
    using S16 = Of<int16_t>;
    using U16 = Of<uint16_t>;
    S sum = (S)acc;
    for (int i = 0; i < Quads; ++i, x += 4) {
      const auto pair = [](int8_t a, int8_t b) {
        return (S16)(S{} + int32_t(uint16_t(a) | uint32_t(uint16_t(b)) << 16));
      };
      const S16 even = (S16)((U16)w[i] & 0xff) * pair(x[0], x[2]), odd = (S16)((U16)w[i] >> 8) * pair(x[1], x[3]);
      if constexpr (Bits <= 6) {
        const S both = (S)(even + odd);  // at most 2 * 63 * 127
        sum += (both << 16 >> 16) + (both >> 16);
      } else {
        sum += ((S)even << 16 >> 16) + ((S)even >> 16) + ((S)odd << 16 >> 16) + ((S)odd >> 16);
      }
    }
    return (I)sum;
  }
};

}  // namespace
}  // namespace ingle
