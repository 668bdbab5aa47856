// y = W x on panels, once for all instruction sets: templates over the kind of matrix, written against a small SIMD
// wrapper `Simd` that the including .cpp has brought along (simd_*.h; the portable one documents the operations).
//
// One kernel serves decoding, small batches and prefill without matrix tiles: P panels x R rows of activations are in
// flight; the codes of a group are unpacked once and used for all R rows. Which P and R are taken changes no result: an
// output is always the sum over groups, in order, of to_float(integer dot product) * (weight scale * activation scale).
// Instruction sets with fused multiply-add (all but the portable one) agree bit for bit.
#pragma once
#include "kernels.h"

namespace ingle {
namespace {

#define INGLE_INLINE inline __attribute__((always_inline))

using F = Simd::F;
using I = Simd::I;
constexpr int kParts = kPanelRows / Simd::kLanes;  // vectors that make a panel
constexpr int kPartBytes = Simd::kLanes * kQuad;   // of a vector of codes
constexpr int kPrefetchBytes = 1536;               // ahead in each stream; measured

// Codes of one group for the rows of `part`: w[i] = quad i.
template <int K>
INGLE_INLINE void unpack(const uint8_t* planes, Simd::Table table, I (&w)[8]) {
  constexpr int bits = kFormats[K].bits;
  constexpr int nibbles = bits == 4 || bits == 5 || bits == 6;
  const uint8_t* p = planes;
  if constexpr (bits == 8) {
    for (int i = 0; i < 8; ++i) {
      w[i] = Simd::load(p + kVector * i);
      // Stored with 128 added; that is the top bit turned.
      if constexpr (Simd::kSignedBytes) w[i] = Simd::flip<0x80>(w[i]);
    }
  }
  if constexpr (nibbles) {
    for (int j = 0; j < 4; ++j) {
      const I v = Simd::load(p + kVector * j);
      w[j] = Simd::field<15, 0>(v);
      w[j + 4] = Simd::field<15, 4>(v);
    }
    p += 4 * kVector;
  }
  if constexpr (kFormats[K].lookup()) {
    for (int i = 0; i < 8; ++i) w[i] = Simd::lookup(table, w[i]);
  }
  if constexpr (bits == 2 || bits == 3) {
    for (int j = 0; j < 2; ++j) {
      const I v = Simd::load(p + kVector * j);
      w[j] = Simd::field<3, 0>(v);
      w[j + 2] = Simd::field<3, 2>(v);
      w[j + 4] = Simd::field<3, 4>(v);
      w[j + 6] = Simd::field<3, 6>(v);
    }
    p += 2 * kVector;
  }
  if constexpr (bits == 6) {
    for (int j = 0; j < 2; ++j) {
      const I v = Simd::load(p + kVector * j);
      w[j] = Simd::merge<48, -4>(w[j], v);
      w[j + 2] = Simd::merge<48, -2>(w[j + 2], v);
      w[j + 4] = Simd::merge<48, 0>(w[j + 4], v);
      w[j + 6] = Simd::merge<48, 2>(w[j + 6], v);
    }
  }
  if constexpr (bits == 3 || bits == 5) {
    constexpr int at = bits - 1;  // where the single bit goes
    const I v = Simd::load(p);
    w[0] = Simd::merge<(1 << at), 0 - at>(w[0], v);
    w[1] = Simd::merge<(1 << at), 1 - at>(w[1], v);
    w[2] = Simd::merge<(1 << at), 2 - at>(w[2], v);
    w[3] = Simd::merge<(1 << at), 3 - at>(w[3], v);
    w[4] = Simd::merge<(1 << at), 4 - at>(w[4], v);
    w[5] = Simd::merge<(1 << at), 5 - at>(w[5], v);
    w[6] = Simd::merge<(1 << at), 6 - at>(w[6], v);
    w[7] = Simd::merge<(1 << at), 7 - at>(w[7], v);
  }
}

// What codes stand for, as the dot product wants it: signed, or with 128 added.
template <int K>
INGLE_INLINE Simd::Table lookup_table() {
  uint8_t values[16];
  for (int i = 0; i < 16; ++i) {
    values[i] = uint8_t(kTables[int(kFormats[K].table)][i] + (Simd::kSignedBytes ? 0 : 128));
  }
  return Simd::table(values);
}

template <int K>
INGLE_INLINE F load_scale(const uint8_t* p) {
  if constexpr (kFormats[K].scale == Scale::bf16) return Simd::load_bf16(p);
  else return Simd::load_f16(p);
}

// Scales and minima of the two halves of group g (the same twice for groups of 32), for the lanes at `subs`.
template <int K>
INGLE_INLINE void load_sub_scales(const uint8_t* subs, int g, F d, F m, F (&scale)[2], F (&minimum)[2]) {
  constexpr Format f = kFormats[K];
  const uint8_t* p = subs + 32 * g;
  if constexpr (!f.super()) {
    scale[0] = scale[1] = d;
    minimum[0] = minimum[1] = m;
  } else if constexpr (f.scale == Scale::u8_pairs) {
    scale[0] = scale[1] = Simd::mul(d, Simd::to_float(Simd::load_u8(p)));
    minimum[0] = minimum[1] = Simd::mul(m, Simd::to_float(Simd::load_u8(p + 16)));
  } else if constexpr (f.scale == Scale::i8) {
    for (int h = 0; h < 2; ++h) scale[h] = Simd::mul(d, Simd::to_float(Simd::load_i8(p + 16 * h)));
  } else {
    for (int h = 0; h < 2; ++h) {
      const I pair = Simd::load_u8(p + 16 * h);
      scale[h] = Simd::mul(d, Simd::to_float(Simd::mask_int(pair, 15)));
      minimum[h] = Simd::mul(m, Simd::to_float(Simd::shift_right<4>(pair)));
    }
  }
}

// sum += products of one group with 32 activations.
template <int K>
INGLE_INLINE F add_group(F sum, const I (&w)[8], const ActivationGroup& x, const F (&scale)[2], const F (&minimum)[2]) {
  constexpr Format f = kFormats[K];
  constexpr int bits = f.bytes() ? 8 : f.bits;
  // Signed bytes come out of the dot product without their zero.
  constexpr int zero = f.bytes() && Simd::kSignedBytes ? 0 : f.zero;
  const F d = Simd::set(x.scale);
  if constexpr (f.group == kGroup) {
    I dot = Simd::set_int(zero ? -zero * (x.sum[0] + x.sum[1]) : 0);
    dot = Simd::template dot<bits>(dot, w, x.q);
    dot = Simd::template dot<bits>(dot, w + 4, x.q + 16);
    sum = Simd::fma(Simd::to_float(dot), Simd::mul(scale[0], d), sum);
    if constexpr (f.minimum) sum = Simd::fma(minimum[0], Simd::set(x.scaled_sum[0] + x.scaled_sum[1]), sum);
  } else {
    for (int h = 0; h < 2; ++h) {
      const I dot = Simd::template dot<bits>(Simd::set_int(zero ? -zero * x.sum[h] : 0), w + 4 * h, x.q + 16 * h);
      sum = Simd::fma(Simd::to_float(dot), Simd::mul(scale[h], d), sum);
      if constexpr (f.minimum) sum = Simd::fma(minimum[h], Simd::set(x.scaled_sum[h]), sum);
    }
  }
  return sum;
}

// Asks for the lines of a group that lies kPrefetchBytes ahead.
template <size_t Bytes>
INGLE_INLINE void prefetch_ahead(const uint8_t* p) {
  if constexpr (Simd::kPrefetch) {
    for (size_t i = 0; i < Bytes; i += kVector) Simd::prefetch(p + kPrefetchBytes + i);
  }
}

// Writes or adds one vector of outputs of one row: those below n.
INGLE_INLINE void put(F v, float* y, int64_t column, int64_t n, bool accumulate) {
  y += column;
  if (column + Simd::kLanes <= n) {
    Simd::store(y, accumulate ? Simd::add(Simd::load_f32(y), v) : v);
    return;
  }
  float lanes[Simd::kLanes];
  Simd::store(lanes, v);
  for (int i = 0; column + i < n; ++i) y[i] = accumulate ? y[i] + lanes[i] : lanes[i];
}

// P panels x R rows x Parts vectors, from vector `part` of the panels.
template <int K, int P, int R, int Parts>
INGLE_INLINE void plane_block(const Panels& w, const int64_t (&panel)[P], int part,
                              const ActivationGroup* const (&x)[R], int rows, float* y, int64_t ldy, bool accumulate) {
  constexpr Format f = kFormats[K];
  constexpr int groups = f.unit_columns() / kGroup;
  const uint8_t* base[P];
  F sum[P][R][Parts];
  for (int p = 0; p < P; ++p) {
    base[p] = w.data + size_t(panel[p]) * w.panel_bytes;
    for (int r = 0; r < R; ++r) {
      for (int s = 0; s < Parts; ++s) sum[p][r][s] = Simd::zero();
    }
  }
  const Simd::Table table = lookup_table<K>();
  const int64_t units = w.k / f.unit_columns();
  for (int64_t u = 0; u < units; ++u) {
    F d[P][Parts], m[P][Parts];
    for (int p = 0; p < P; ++p) {
      prefetch_ahead<f.header_bytes()>(base[p] + f.scale_at(u));
      if constexpr (f.super()) prefetch_ahead<kSuper>(base[p] + f.unit_at(u));
      for (int s = 0; s < Parts; ++s) {
        const int offset = 2 * Simd::kLanes * (part + s);
        d[p][s] = load_scale<K>(base[p] + f.scale_at(u) + offset);
        m[p][s] = f.minimum ? Simd::load_f16(base[p] + f.minimum_at(u) + offset) : Simd::zero();
      }
    }
    for (int g = 0; g < groups; ++g) {
      for (int p = 0; p < P; ++p) {
        const uint8_t* subs = base[p] + f.unit_at(u);
        const uint8_t* planes = subs + (f.super() ? kSuper : 0) + size_t(g) * f.group_bytes();
        prefetch_ahead<f.group_bytes()>(planes);
        for (int s = 0; s < Parts; ++s) {
          I code[8];
          F scale[2], minimum[2];
          unpack<K>(planes + kPartBytes * (part + s), table, code);
          load_sub_scales<K>(subs + Simd::kLanes * (part + s), g, d[p][s], m[p][s], scale, minimum);
          for (int r = 0; r < R; ++r) {
            sum[p][r][s] = add_group<K>(sum[p][r][s], code, x[r][u * groups + g], scale, minimum);
          }
        }
      }
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int r = 0; r < rows; ++r) {
      for (int s = 0; s < Parts; ++s) {
        put(sum[p][r][s], y + r * ldy, panel[p] * kPanelRows + Simd::kLanes * (part + s), w.n, accumulate);
      }
    }
  }
}

// Columns that are summed by themselves: keeps rounding errors at those of short sums.
constexpr int64_t kFloatBlock = 128;

template <int K>
INGLE_INLINE F load_values(const uint8_t* p) {
  if constexpr (K == F32) return Simd::load_f32(reinterpret_cast<const float*>(p));
  else if constexpr (K == F16) return Simd::load_f16(p);
  else return Simd::load_bf16(p);
}

template <int K, int P, int R, int Parts>
INGLE_INLINE void float_block(const Panels& w, const int64_t (&panel)[P], int part, const float* const (&x)[R],
                              int rows, float* y, int64_t ldy, bool accumulate) {
  constexpr int size = kFormats[K].bits / 8;
  F total[P][R][Parts];
  for (int p = 0; p < P; ++p) {
    for (int r = 0; r < R; ++r) {
      for (int s = 0; s < Parts; ++s) total[p][r][s] = Simd::zero();
    }
  }
  for (int64_t begin = 0; begin < w.k; begin += kFloatBlock) {
    const int64_t end = begin + kFloatBlock < w.k ? begin + kFloatBlock : w.k;
    F sum[P][R][Parts];
    for (int p = 0; p < P; ++p) {
      for (int r = 0; r < R; ++r) {
        for (int s = 0; s < Parts; ++s) sum[p][r][s] = Simd::zero();
      }
    }
    for (int64_t c = begin; c < end; ++c) {
      for (int p = 0; p < P; ++p) {
        const uint8_t* column = w.data + size_t(panel[p]) * w.panel_bytes + size_t(c) * kPanelRows * size;
        prefetch_ahead<kPanelRows * size>(column);
        for (int s = 0; s < Parts; ++s) {
          const F v = load_values<K>(column + (part + s) * Simd::kLanes * size);
          for (int r = 0; r < R; ++r) sum[p][r][s] = Simd::fma(v, Simd::set(x[r][c]), sum[p][r][s]);
        }
      }
    }
    for (int p = 0; p < P; ++p) {
      for (int r = 0; r < R; ++r) {
        for (int s = 0; s < Parts; ++s) total[p][r][s] = Simd::add(total[p][r][s], sum[p][r][s]);
      }
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int r = 0; r < rows; ++r) {
      for (int s = 0; s < Parts; ++s) {
        put(total[p][r][s], y + r * ldy, panel[p] * kPanelRows + Simd::kLanes * (part + s), w.n, accumulate);
      }
    }
  }
}

// P panels with rows [0, rows), rows <= R: the missing rows repeat the last one and are not written.
template <int K, int P, int R>
void block(const Panels& w, const int64_t (&panel)[P], const void* x, int rows, float* y, int64_t ldy,
           bool accumulate) {
  constexpr int parts = R < Simd::kWideRows ? kParts : 1;  // all vectors of a panel at once, while registers last
  if constexpr (K < kPlaneKinds) {
    const ActivationGroup* row[R];
    for (int r = 0; r < R; ++r)
      row[r] = static_cast<const ActivationGroup*>(x) + (r < rows ? r : rows - 1) * (w.k / kGroup);
    for (int part = 0; part < kParts; part += parts)
      plane_block<K, P, R, parts>(w, panel, part, row, rows, y, ldy, accumulate);
  } else {
    const float* row[R];
    for (int r = 0; r < R; ++r) row[r] = static_cast<const float*>(x) + (r < rows ? r : rows - 1) * w.k;
    for (int part = 0; part < kParts; part += parts)
      float_block<K, P, R, parts>(w, panel, part, row, rows, y, ldy, accumulate);
  }
}

// All rows for one panel, as many at once as there are, at most 8. The panel is read from memory once; for later rows
// it comes from the cache.
template <int K>
void all_rows(const Panels& w, int64_t panel, const void* x, int64_t m, float* y, int64_t ldy, bool accumulate) {
  const size_t row_bytes =
      K < kPlaneKinds ? size_t(w.k / kGroup) * sizeof(ActivationGroup) : size_t(w.k) * sizeof(float);
  for (int64_t i = 0; i < m;) {
    const void* xi = static_cast<const uint8_t*>(x) + size_t(i) * row_bytes;
    float* yi = y + i * ldy;
    const int rows = m - i < 8 ? int(m - i) : 8;
    if (rows == 1) block<K, 1, 1>(w, {panel}, xi, rows, yi, ldy, accumulate);
    else if (rows == 2) block<K, 1, 2>(w, {panel}, xi, rows, yi, ldy, accumulate);
    else if (rows <= 4) block<K, 1, 4>(w, {panel}, xi, rows, yi, ldy, accumulate);
    else block<K, 1, 8>(w, {panel}, xi, rows, yi, ldy, accumulate);
    i += rows;
  }
}

// At most R rows, P panels at a time. Each stream walks through its own contiguous share of the panels, so that asking
// for what lies ahead always hits. What is left goes in fewer streams.
template <int K, int P, int R>
void walk(const Panels& w, const void* x, int rows, float* y, int64_t ldy, bool accumulate, int64_t begin,
          int64_t end) {
  const int64_t share = (end - begin) / P;
  for (int64_t i = 0; i < share; ++i) {
    int64_t panel[P];
    for (int p = 0; p < P; ++p) panel[p] = begin + p * share + i;
    block<K, P, R>(w, panel, x, rows, y, ldy, accumulate);
  }
  if constexpr (P > 1) walk<K, P / 2, R>(w, x, rows, y, ldy, accumulate, begin + P * share, end);
}

template <int K>
void multiply(const Panels& w, const void* x, int64_t m, float* y, int64_t ldy, bool accumulate, int64_t panel_begin,
              int64_t panel_end) {
  constexpr int streams = Simd::kStreams, few = Simd::kFewStreams;
  const int rows = m < 8 ? int(m) : 8;
  if (m == 1) walk<K, streams, 1>(w, x, rows, y, ldy, accumulate, panel_begin, panel_end);
  else if (m == 2) walk<K, streams, 2>(w, x, rows, y, ldy, accumulate, panel_begin, panel_end);
  else if (m <= 4) walk<K, few, 4>(w, x, rows, y, ldy, accumulate, panel_begin, panel_end);
  else if (m <= 8) walk<K, few, 8>(w, x, rows, y, ldy, accumulate, panel_begin, panel_end);
  else
    for (int64_t p = panel_begin; p < panel_end; ++p) all_rows<K>(w, p, x, m, y, ldy, accumulate);
}

// Plain code: compilers vectorise it. The bits of |x| order as integers do, and put infinities and NaNs above all else.
void quantise(const float* x, int64_t groups, ActivationGroup* out) {
  constexpr uint32_t kInfinity = 0x7f800000u;
  constexpr float kTiny = 1e-30f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, to nearest even
  for (int64_t g = 0; g < groups; ++g, x += kGroup, ++out) {
    uint32_t bits[kGroup];
    __builtin_memcpy(bits, x, sizeof bits);
    uint32_t top = 0;
    for (int i = 0; i < kGroup; ++i) {
      const uint32_t magnitude = bits[i] & 0x7fffffffu;
      top = magnitude > top ? magnitude : top;
    }
    float largest;
    __builtin_memcpy(&largest, &top, sizeof largest);
    const bool use = top < kInfinity && largest >= kTiny;
    const float inverse = use ? 127.0f / largest : 0.0f;
    int32_t q[kGroup];
    for (int i = 0; i < kGroup; ++i) {
      const float shifted = (use ? x[i] * inverse : 0.0f) + kRound;
      int32_t pattern;
      __builtin_memcpy(&pattern, &shifted, sizeof pattern);
      q[i] = pattern - 0x4b400000;
    }
    int32_t sum[2] = {};
    for (int i = 0; i < 16; ++i) sum[0] += q[i];
    for (int i = 16; i < kGroup; ++i) sum[1] += q[i];
    for (int i = 0; i < kGroup; ++i) out->q[i] = int8_t(q[i]);
    out->scale = top >= kInfinity ? __builtin_nanf("") : use ? largest / 127.0f : 0.0f;
    for (int h = 0; h < 2; ++h) {
      out->sum[h] = int16_t(sum[h]);
      out->scaled_sum[h] = out->scale * float(sum[h]);
    }
  }
}

// Two vectors of outputs by as many rows as hide the latency of a dot product; activations come from the L1 cache.
void peak(int64_t operations) {
  constexpr int kRows = Simd::kLanes == 16 ? 10 : 5, kRounds = 16;
  constexpr int64_t kEach = 2 * kRows * 4 * Simd::kLanes * kQuad * 2;
  alignas(64) static int8_t x[(kRounds + 8) * kRows * 16];
  const int8_t* row = x;
  const auto hide = [](const int8_t*& p) { __asm__ volatile("" : "+r"(p)); };  // or products are worked out beforehand
  hide(row);
  I sums[kRows][2] = {}, w[2] = {Simd::load(row), Simd::load(row + 64)};
  const I quads[2][4] = {{w[0], w[0], w[0], w[0]}, {w[1], w[1], w[1], w[1]}};
  for (int64_t i = 0; i < operations / kEach; ++i) {
    row = x + i % kRounds * (kRows * 16);
    hide(row);
#pragma GCC unroll 10
    for (int r = 0; r < kRows; ++r) {
      for (int p = 0; p < 2; ++p) sums[r][p] = Simd::dot<4>(sums[r][p], quads[p], row + r * 16);
    }
  }
  F total = Simd::zero();
  for (const auto& sum : sums) total = Simd::add(total, Simd::add(Simd::to_float(sum[0]), Simd::to_float(sum[1])));
  float kept[Simd::kLanes];
  Simd::store(kept, total);
  __asm__ volatile("" : : "r"(kept) : "memory");
}

constexpr Kernels make_kernels(const char* name) {
  return {name,
          quantise,
          {multiply<Q4_0>, multiply<Q4_1>, multiply<Q5_0>, multiply<Q5_1>, multiply<Q8_0>, multiply<IQ4_NL>,
           multiply<MXFP4>, multiply<Q2_K>, multiply<Q3_K>, multiply<Q4_K>, multiply<Q5_K>, multiply<Q6_K>,
           multiply<F32>, multiply<F16>, multiply<BF16>},
          peak,
          nullptr};
}

}  // namespace
}  // namespace ingle
