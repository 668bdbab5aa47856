// What kernels are written in: vectors of floats and of 32-bit integers, in the vector extensions of GCC and Clang.
//
// Plain code, for vectors of any size and every processor. The file of an instruction set derives its `Simd` from
// Vectors and replaces what the set has better instructions for; dot() and the constants decide its speed.
#pragma once
#include <cstdint>

#define INGLE_INLINE static inline __attribute__((always_inline, unused))

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
  INGLE_INLINE V load_as(const void* p) {
    V v;
    __builtin_memcpy(&v, p, sizeof v);
    return v;
  }
  INGLE_INLINE I load(const void* p) { return load_as<I>(p); }
  INGLE_INLINE F load_f32(const float* p) { return load_as<F>(p); }
  INGLE_INLINE void store(float* p, F v) { __builtin_memcpy(p, &v, sizeof v); }
  INGLE_INLINE F set(float x) { return x - F{}; }
  INGLE_INLINE F fma(F a, F b, F c) { return a * b + c; }  // two roundings here, one where there is hardware

  template <class T>
  INGLE_INLINE S widen(const void* p) {
    return __builtin_convertvector(load_as<Of<T, sizeof(T) * kLanes>>(p), S);
  }
  INGLE_INLINE I load_u8(const uint8_t* p) { return (I)widen<uint8_t>(p); }
  INGLE_INLINE I load_i8(const uint8_t* p) { return (I)widen<int8_t>(p); }
  INGLE_INLINE F load_bf16(const void* p) { return (F)(widen<uint16_t>(p) << 16); }
  INGLE_INLINE F load_f16(const void* p) {
    const U bits = (U)widen<uint16_t>(p);
    const U magnitude = (U)((F)((bits & 0x7fff) << 13) * 0x1p112f);
    const U special = (U)((bits & 0x7c00) == 0x7c00) & 0x7f800000u;
    return (F)(magnitude | special | (bits & 0x8000) << 16);
  }
  // Nearest, ties to even.
  INGLE_INLINE void store_f16(void* p, F v) {
    const U magnitude = (U)v & 0x7fffffff, sign = (U)v >> 16 & 0x8000;
    const U normal = (magnitude + 0xfff + (magnitude >> 13 & 1) - (112u << 23)) >> 13;  // round the 13 bits that go
    const U small = (U)((F)magnitude + 0.5f) - 0x3f000000;  // multiples of 2^-24: adding 1/2 rounds to them
    const U finite = magnitude < 0x38800000 ? small : normal;
    const auto half = __builtin_convertvector((magnitude > 0x7f800000 ? U{} + 0x7e00 : finite) | sign, Of<uint16_t, 2 * kLanes>);
    __builtin_memcpy(p, &half, sizeof half);
  }
  INGLE_INLINE F max(F a, F b) { return a > b ? a : b; }  // b where one is NaN
  INGLE_INLINE F to_float(I v) { return __builtin_convertvector((S)v, F); }
  // Nearest, to even. Through memory: the compiler may not join the addition with what made x.
  INGLE_INLINE I round(F x) {
    __asm__("" : "+m"(x));
    return (I)((S)(x + 12582912.0f) - 0x4b400000);  // 1.5 * 2^23: the low bits of the sum are the nearest integer
  }

  // The sum of the lanes, by halves.
  template <class V>
  INGLE_INLINE int32_t total(V v) {
    if constexpr (sizeof v == 16) {
      return (v[0] + v[2]) + (v[1] + v[3]);
    } else {
      Of<int32_t, sizeof v / 2> half[2];
      __builtin_memcpy(half, &v, sizeof v);
      return total(half[0] + half[1]);
    }
  }

  // Bytes, four to a lane, each shifted right (left if negative) and masked.
  INGLE_INLINE I field(I v, int right, uint32_t mask) {
    return (I)((right < 0 ? (U)v << -right : (U)v >> right) & mask * 0x01010101u);
  }

  struct Table {
    uint8_t values[16];
  };
  INGLE_INLINE Table table(const uint8_t* values) { return load_as<Table>(values); }
  INGLE_INLINE I lookup(const Table& t, I index) {
    uint8_t b[Bytes];
    __builtin_memcpy(b, &index, sizeof b);
    for (uint8_t& x : b) x = t.values[x];
    return load(b);
  }

  // acc + the products of codes of some quads, bytes of at most `Bits` bits, with signed activations.
  template <int Bits, int Quads>
  INGLE_INLINE I dot(I acc, const I* w, const int8_t* x) {
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
