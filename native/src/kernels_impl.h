// y = W x on panels, once for all instruction sets: templates over the kind of matrix, written against a small SIMD
// wrapper `Simd` that the including .cpp has brought along (simd.h says what is in it).
//
// One kernel serves decoding, small batches and prefill without matrix tiles: P panels x R rows of activations are in
// flight; the codes of a group are unpacked once and used for all R rows. Which P and R are taken changes no result: an
// output is always the sum over groups, in order, of to_float(integer dot product) * (weight scale * activation scale).
// Instruction sets with fused multiply-add (all but the portable one) agree bit for bit.
#pragma once
#include "kernels.h"
#include "simd.h"

namespace ingle {
namespace {

using F = Simd::F;
using I = Simd::I;
constexpr int kParts = kPanelRows / Simd::kLanes;  // vectors that make a panel
constexpr int kPartBytes = Simd::kLanes * kQuad;   // of a vector of codes
constexpr int kPrefetchBytes = 1024;               // ahead in each stream; measured
constexpr int kRowBlock = 32;                      // rows of activations for which codes are unpacked once
constexpr int kPanelBlock = 8;

// A plane of 4, 2 or 1 bits has as many vectors; its bits become bits `At` and up of the codes.
template <int Bits, int At>
INGLE_INLINE void add_plane(const uint8_t* plane, I (&w)[8]) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    const I code = Simd::field(Simd::load(plane + kVector * (i % Bits)), i / Bits * Bits - At, ((1 << Bits) - 1) << At);
    w[i] = At == 0 ? code : I(Simd::U(w[i]) | Simd::U(code));
  }
}

// Codes of one group for a vector of rows: w[i] = quad i.
template <int K>
INGLE_INLINE void unpack(const uint8_t* planes, Simd::Table table, I (&w)[8]) {
  constexpr int bits = kFormats[K].bits, low = bits < 4 ? 2 : 4;
  if constexpr (bits == 8) {
    for (int i = 0; i < 8; ++i) {
      w[i] = Simd::load(planes + kVector * i);
      if constexpr (Simd::kSignedBytes) w[i] ^= I(Simd::U{} + 0x80808080u);  // stored with 128 added
    }
  } else {
    add_plane<low, 0>(planes, w);
    if constexpr (bits == 6) add_plane<2, 4>(planes + low * kVector, w);
    if constexpr (bits == 3 || bits == 5) add_plane<1, low>(planes + low * kVector, w);
    if constexpr (kFormats[K].lookup()) {
      for (I& codes : w) codes = Simd::lookup(table, codes);
    }
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
    scale[0] = scale[1] = d * Simd::to_float(Simd::load_u8(p));
    minimum[0] = minimum[1] = m * Simd::to_float(Simd::load_u8(p + 16));
  } else if constexpr (f.scale == Scale::i8) {
    for (int h = 0; h < 2; ++h) scale[h] = d * Simd::to_float(Simd::load_i8(p + 16 * h));
  } else {
    for (int h = 0; h < 2; ++h) {
      const I pair = Simd::load_u8(p + 16 * h);
      scale[h] = d * Simd::to_float(Simd::field(pair, 0, 15));
      minimum[h] = m * Simd::to_float(Simd::field(pair, 4, 15));
    }
  }
}

// sum += products of one group with 32 activations. The zero of codes is taken off exactly: all are integers below 2^24.
template <int K>
INGLE_INLINE F add_group(F sum, const I (&w)[8], const ActivationGroup& x, const F (&scale)[2], const F (&minimum)[2]) {
  constexpr Format f = kFormats[K];
  constexpr int halves = kGroup / f.group;
  // Signed bytes come out of the dot product without their zero.
  constexpr int zero = f.bytes() && Simd::kSignedBytes ? 0 : f.zero;
  F total = F{};
  for (int h = 0; h < halves; ++h) {
    const F x_sum = Simd::set(x.sum[halves == 1 ? 2 : h]);
    F dot = Simd::to_float(Simd::template dot<f.bytes() ? 8 : f.bits, 8 / halves>(I{}, w + 4 * h, x.q + 16 * h));
    if constexpr (zero != 0) dot = Simd::fma(Simd::set(-zero), x_sum, dot);
    total = h == 0 ? dot * scale[h] : Simd::fma(dot, scale[h], total);
    if constexpr (f.minimum) total = Simd::fma(minimum[h], x_sum, total);
  }
  return Simd::fma(total, Simd::set(x.scale), sum);
}

// Asks for the lines of a group that lies kPrefetchBytes ahead.
template <size_t Bytes>
INGLE_INLINE void prefetch_ahead(const uint8_t* p) {
  if constexpr (Simd::kPrefetch) {
    for (size_t i = 0; i < Bytes; i += kVector) __builtin_prefetch(p + kPrefetchBytes + i);
  }
}

// Writes or adds one vector of outputs of one row: those below n.
INGLE_INLINE void put(F v, float* y, int64_t column, int64_t n, bool accumulate) {
  y += column;
  if (column + Simd::kLanes <= n) {
    Simd::store(y, accumulate ? Simd::load_f32(y) + v : v);
    return;
  }
  float lanes[Simd::kLanes];
  Simd::store(lanes, v);
  for (int i = 0; column + i < n; ++i) y[i] = accumulate ? y[i] + lanes[i] : lanes[i];
}

// sums[part][row] += products of group g of unit u of a panel with that group of `rows` rows of activations.
template <int K, int Rows>
INGLE_INLINE void add_panel(const uint8_t* panel, int64_t u, int g, Simd::Table table, const ActivationGroup* x,
                            int rows, F (&sums)[kParts][Rows]) {
  constexpr Format f = kFormats[K];
  const uint8_t* subs = panel + f.unit_at(u);
  const uint8_t* planes = subs + (f.super() ? kSuper : 0) + size_t(g) * f.group_bytes();
  prefetch_ahead<f.group_bytes()>(planes);
  for (int s = 0; s < kParts; ++s) {
    const int offset = 2 * Simd::kLanes * s;
    const F d = load_scale<K>(panel + f.scale_at(u) + offset);
    const F least = f.minimum ? Simd::load_f16(panel + f.minimum_at(u) + offset) : F{};
    I code[8];
    F scale[2], minimum[2];
    unpack<K>(planes + kPartBytes * s, table, code);
    load_sub_scales<K>(subs + Simd::kLanes * s, g, d, least, scale, minimum);
    for (int r = 0; r < rows; ++r) sums[s][r] = add_group<K>(sums[s][r], code, x[r], scale, minimum);
  }
}

// P panels for one row of activations, whose sums stay in registers, or for up to kRowBlock of m.
template <int K, int P, bool One>
INGLE_INLINE void plane_block(const Panels& w, const int64_t (&panel)[P], const ActivationGroup* x, int64_t m, int rows,
                              float* y, int64_t ldy, bool accumulate) {
  constexpr Format f = kFormats[K];
  constexpr int groups = f.unit_columns() / kGroup;
  const uint8_t* base[P];
  F sums[P][kParts][One ? 1 : kRowBlock];
  if constexpr (One) m = rows = 1;
  for (int p = 0; p < P; ++p) {
    base[p] = w.data + size_t(panel[p]) * w.panel_bytes;
    for (int s = 0; s < kParts; ++s) {
      for (int r = 0; r < rows; ++r) sums[p][s][r] = F{};
    }
  }
  const Simd::Table table = lookup_table<K>();
  const int64_t units = w.k / f.unit_columns();
  for (int64_t u = 0; u < units; ++u) {
    for (int p = 0; p < P; ++p) {
      prefetch_ahead<f.header_bytes()>(base[p] + f.scale_at(u));
      if constexpr (f.super()) prefetch_ahead<kSuper>(base[p] + f.unit_at(u));
    }
    for (int g = 0; g < groups; ++g, x += m) {
      if constexpr (One) {
#pragma GCC unroll 4
        for (int p = 0; p < P; ++p) add_panel<K>(base[p], u, g, table, x, 1, sums[p]);
      } else {
        for (int p = 0; p < P; ++p) add_panel<K>(base[p], u, g, table, x, rows, sums[p]);
      }
    }
  }
#pragma GCC unroll 4  // an index that is not known keeps the sums in memory
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 4
    for (int s = 0; s < kParts; ++s) {
      for (int r = 0; r < rows; ++r) {
        put(sums[p][s][r], y + r * ldy, panel[p] * kPanelRows + Simd::kLanes * s, w.n, accumulate);
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

// P panels for R rows of activations; missing ones repeat the last and are not written.
template <int K, int P, int R>
INGLE_INLINE void float_block(const Panels& w, const int64_t (&panel)[P], const float* x, int rows, float* y,
                              int64_t ldy, bool accumulate) {
  constexpr int size = kFormats[K].bits / 8;
  const float* row[R];
  for (int r = 0; r < R; ++r) row[r] = x + (r < rows ? r : rows - 1) * w.k;
  F total[P][R][kParts] = {};
  for (int64_t begin = 0; begin < w.k; begin += kFloatBlock) {
    const int64_t end = begin + kFloatBlock < w.k ? begin + kFloatBlock : w.k;
    F sum[P][R][kParts] = {};
    for (int64_t c = begin; c < end; ++c) {
      for (int p = 0; p < P; ++p) {
        const uint8_t* column = w.data + size_t(panel[p]) * w.panel_bytes + size_t(c) * kPanelRows * size;
        prefetch_ahead<kPanelRows * size>(column);
        F v[kParts];
        for (int s = 0; s < kParts; ++s) v[s] = load_values<K>(column + s * Simd::kLanes * size);
        for (int r = 0; r < R; ++r) {
          for (int s = 0; s < kParts; ++s) sum[p][r][s] = Simd::fma(v[s], Simd::set(row[r][c]), sum[p][r][s]);
        }
      }
    }
    for (int p = 0; p < P; ++p) {
      for (int r = 0; r < R; ++r) {
        for (int s = 0; s < kParts; ++s) total[p][r][s] += sum[p][r][s];
      }
    }
  }
  for (int p = 0; p < P; ++p) {
    for (int r = 0; r < rows; ++r) {
      for (int s = 0; s < kParts; ++s) {
        put(total[p][r][s], y + r * ldy, panel[p] * kPanelRows + Simd::kLanes * s, w.n, accumulate);
      }
    }
  }
}

// Rows [0, rows) of the m rows of x for P panels.
template <int K, int P, bool One>
void block(const Panels& w, const int64_t (&panel)[P], const void* x, int64_t m, int rows, float* y, int64_t ldy,
           bool accumulate) {
  if constexpr (K < kPlaneKinds) {
    plane_block<K, P, One>(w, panel, static_cast<const ActivationGroup*>(x), m, rows, y, ldy, accumulate);
  } else if constexpr (One) {
    float_block<K, P, 1>(w, panel, static_cast<const float*>(x), 1, y, ldy, accumulate);
  } else {
    constexpr int many = Simd::kRegisters / 2 / kParts;  // sums in flight: half of the registers
    for (int r = 0; r < rows; r += many) {
      const float* xr = static_cast<const float*>(x) + r * w.k;
      const int left = rows - r < many ? rows - r : many;
      for (int p = 0; p < P; ++p) {
        if (left <= 4) float_block<K, 1, 4>(w, {panel[p]}, xr, left, y + r * ldy, ldy, accumulate);
        else float_block<K, 1, many>(w, {panel[p]}, xr, left, y + r * ldy, ldy, accumulate);
      }
    }
  }
}

// Each of P streams walks through its own contiguous share of the panels, so that asking for what lies ahead always
// hits. What is left goes in one stream.
template <int K, int P, bool One>
void walk(const Panels& w, const void* x, int64_t m, int rows, float* y, int64_t ldy, bool accumulate, int64_t begin,
          int64_t end) {
  const int64_t share = (end - begin) / P;
  for (int64_t i = 0; i < share; ++i) {
    int64_t panel[P];
    for (int p = 0; p < P; ++p) panel[p] = begin + p * share + i;
    block<K, P, One>(w, panel, x, m, rows, y, ldy, accumulate);
  }
  if constexpr (P > 1) walk<K, 1, One>(w, x, m, rows, y, ldy, accumulate, begin + P * share, end);
}

template <int K>
void multiply(const Panels& w, const void* x, int64_t m, float* y, int64_t ldy, bool accumulate, int64_t begin,
              int64_t end) {
  constexpr int streams = Simd::kStreams;
  if (m == 1) return walk<K, streams, true>(w, x, 1, 1, y, ldy, accumulate, begin, end);
  // Some panels and some rows at a time, so that both are read from the second-level cache when they are used again.
  const int64_t panels = m <= kRowBlock ? end - begin : kPanelBlock;
  const size_t row_bytes = K < kPlaneKinds ? sizeof(ActivationGroup) : size_t(w.k) * sizeof(float);
  for (; begin < end; begin += panels) {
    for (int64_t i = 0; i < m; i += kRowBlock) {
      const int rows = m - i < kRowBlock ? int(m - i) : kRowBlock;
      walk<K, streams, false>(w, static_cast<const uint8_t*>(x) + size_t(i) * row_bytes, m, rows, y + i * ldy, ldy,
                              accumulate, begin, end - begin < panels ? end : begin + panels);
    }
  }
}

// Compilers vectorise the plain loops. The bits of |x| order as integers do, and put infinities and NaNs above all else.
void quantise(const float* x, int64_t groups, ActivationGroup* out, int64_t step) {
  constexpr uint32_t kInfinity = 0x7f800000u;
  constexpr float kTiny = 1e-30f;
  for (int64_t g = 0; g < groups; ++g, x += kGroup, out += step) {
    uint32_t bits[kGroup], top = 0;
    __builtin_memcpy(bits, x, sizeof bits);
    for (const uint32_t b : bits) top = (b & 0x7fffffffu) > top ? b & 0x7fffffffu : top;
    float largest;
    __builtin_memcpy(&largest, &top, sizeof largest);
    const bool use = top < kInfinity && largest >= kTiny;
    const float inverse = use ? 127.0f / largest : 0.0f;
    int32_t q[kGroup] = {}, sum[2] = {};
    int8_t bytes[kGroup];  // bytes may be anybody's: stored to `out` one by one, they would be in the way of all else
    for (int i = 0; use && i < kGroup; i += Simd::kLanes) {
      const I codes = Simd::round(Simd::load_f32(x + i) * inverse);
      __builtin_memcpy(q + i, &codes, sizeof codes);
      sum[i / 16] += Simd::total((Simd::S)codes);
    }
    for (int i = 0; i < kGroup; ++i) bytes[i] = int8_t(q[i]);
    __builtin_memcpy(out->q, bytes, sizeof bytes);
    out->scale = top >= kInfinity ? __builtin_nanf("") : use ? largest / 127.0f : 0.0f;
    for (int h = 0; h < 2; ++h) out->sum[h] = float(sum[h]);
    out->sum[2] = float(sum[0] + sum[1]);
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
      for (int p = 0; p < 2; ++p) sums[r][p] = Simd::template dot<4, 4>(sums[r][p], quads[p], row + r * 16);
    }
  }
  F total{};
  for (const auto& sum : sums) total += Simd::to_float(sum[0]) + Simd::to_float(sum[1]);
  float kept[Simd::kLanes];
  Simd::store(kept, total);
  __asm__ volatile("" : : "r"(kept) : "memory");
}

constexpr Kernels make_kernels(const char* name, const VectorOps* vectors) {
  return {name,
          vectors,
          quantise,
          {multiply<Q4_0>, multiply<Q4_1>, multiply<Q5_0>, multiply<Q5_1>, multiply<Q8_0>, multiply<IQ4_NL>,
           multiply<MXFP4>, multiply<Q2_K>, multiply<Q3_K>, multiply<Q4_K>, multiply<Q5_K>, multiply<Q6_K>,
           multiply<F32>, multiply<F16>, multiply<BF16>},
          peak,
          nullptr};
}

}  // namespace
}  // namespace ingle
