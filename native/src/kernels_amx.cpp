// Matrix tiles (AMX): 16 x 32 by 32 x 16 products of bfloat16 in one instruction. Few rows go the way of AVX-512.
#include "simd_avx512.h"

#include "kernels_impl.h"
#include "tile_unit.h"
#include "tiles.h"
#include "vector_math.h"

namespace ingle {

const VectorOps& vector_ops_amx();  // vector_amx.cpp

namespace {

constexpr int kTileBytes = 1024;
constexpr int64_t kSums = 128;  // pairs of panels that share one pass over the activations, times blocks of rows in it
constexpr int64_t kInCache = 1 << 20;  // activations of so many bytes stay in the L2 cache from pass to pass

using Sums = float[4][16][16];  // of 32 rows and a pair of panels: upper left, upper right, lower left, lower right

struct Scratch {
  alignas(64) uint8_t weights[2][2 * kTileDepth * kTileBytes];  // of this step and of the next one
  alignas(64) Sums sums[kSums];                                 // they stay in the L2 cache, with the rows of one step
};

// One for each thread, taken at its first product and kept.
Scratch& scratch() {
  struct Owner {
    Scratch* p = new Scratch;
    ~Owner() { delete p; }
  };
  thread_local Owner owner;
  return *owner.p;
}

// Two vectors of 16 outputs, columns c and c + 1, to one line of a weight tile: pairs of bf16.
INGLE_INLINE void store_pairs(I both, uint8_t* line) {
  const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                              6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  _mm512_store_si512(line, _mm512_permutexvar_epi16(interleave, both));
}

INGLE_INLINE I to_bf16(F even, F odd) { return I(_mm512_cvtne2ps_pbh(odd, even)); }

// Byte `Byte` of each lane as a float plus 256: the code goes into the mantissa of 256.0.
template <int Byte>
INGLE_INLINE F code_plus_256(I codes) {
  I placed;
  if constexpr (Byte <= 1) placed = _mm512_slli_epi32(codes, 15 - 8 * Byte);
  else placed = _mm512_srli_epi32(codes, 8 * Byte - 15);
  const I bits = _mm512_ternarylogic_epi32(_mm512_set1_epi32(0x43800000), placed, _mm512_set1_epi32(0xff << 15), 0xf8);
  return _mm512_castsi512_ps(bits);
}

// What rounding leaves of a number.
INGLE_INLINE F rest_of(F v) {
  return _mm512_sub_ps(v, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(__m256i(_mm512_cvtneps_pbh(v))), 16)));
}

// Group `group` of `groups` of a panel as a tile of bf16 weights: 16 pairs of columns by 16 outputs.
template <int K>
INGLE_INLINE void dequantise(const uint8_t* panel, int64_t group, int64_t groups_of_row, Simd::Table table, uint8_t* tile) {
  constexpr Format f = kFormats[K];
  if constexpr (K >= kPlaneKinds) {
    const uint8_t* columns = panel + group % (groups_of_row / tile_parts(K)) * kTileBytes;
    const bool rest = K == F16 && group >= groups_of_row / 3 * 2;
    for (int i = 0; i < 16; ++i, columns += 64) {
      I both = Simd::load(columns);
      if constexpr (K == F16) {
        const F even = Simd::load_f16(columns), odd = Simd::load_f16(columns + 32);
        both = rest ? to_bf16(rest_of(even), rest_of(odd)) : to_bf16(even, odd);
      }
      store_pairs(both, tile + 64 * i);
    }
  } else {
    constexpr int groups = f.unit_columns() / kGroup;
    const int64_t u = group / groups;
    const int g = int(group % groups);
    const uint8_t* subs = panel + f.unit_at(u);
    F scale[2], minimum[2];
    load_sub_scales<K>(subs, g, load_scale<K>(panel + f.scale_at(u)),
                       f.minimum ? Simd::load_f16(panel + f.minimum_at(u)) : F{}, scale, minimum);
    I codes[8];
    unpack<K>(subs + (f.super() ? kSuper : 0) + size_t(g) * f.group_bytes(), table, codes);
    for (int i = 0; i < 8; ++i) {
      const F s = scale[i / 4];
      const F zero = _mm512_set1_ps(-256.0f - float(f.zero));
      const F offset = f.minimum ? _mm512_fmadd_ps(s, zero, minimum[i / 4]) : _mm512_mul_ps(s, zero);
      const F w0 = _mm512_fmadd_ps(code_plus_256<0>(codes[i]), s, offset);
      const F w1 = _mm512_fmadd_ps(code_plus_256<1>(codes[i]), s, offset);
      const F w2 = _mm512_fmadd_ps(code_plus_256<2>(codes[i]), s, offset);
      const F w3 = _mm512_fmadd_ps(code_plus_256<3>(codes[i]), s, offset);
      store_pairs(to_bf16(w0, w1), tile + 128 * i);
      store_pairs(to_bf16(w2, w3), tile + 128 * i + 64);
    }
  }
}

// Where 32 x 32 sums go when they are done, if not to Sums: the lines are `stride` values apart.
struct Out {
  float* at;
  int64_t stride;
};

// sums += rows (2 tiles a group) * weights (2 tiles a group) over `depth` groups.
INGLE_INLINE void multiply_tiles(const uint8_t* rows, const uint8_t* weights, int64_t depth, bool lower, bool first,
                                 Sums& sums, Out out) {
  if (first) {
    INGLE_TILE_ZERO(0);
    INGLE_TILE_ZERO(1);
    INGLE_TILE_ZERO(2);
    INGLE_TILE_ZERO(3);
  } else {
    INGLE_TILE_LOAD(0, sums[0], 64);
    INGLE_TILE_LOAD(1, sums[1], 64);
    INGLE_TILE_LOAD(2, sums[2], 64);
    INGLE_TILE_LOAD(3, sums[3], 64);
  }
  for (int64_t i = 0; i < depth; ++i, rows += 2 * kTileBytes, weights += 2 * kTileBytes) {
    INGLE_TILE_LOAD(4, rows, 64);
    INGLE_TILE_LOAD(6, weights, 64);
    INGLE_TILE_MULTIPLY(0, 4, 6);
    INGLE_TILE_LOAD(7, weights + kTileBytes, 64);
    INGLE_TILE_MULTIPLY(1, 4, 7);
    if (!lower) continue;
    INGLE_TILE_LOAD(5, rows + kTileBytes, 64);
    INGLE_TILE_MULTIPLY(2, 5, 6);
    INGLE_TILE_MULTIPLY(3, 5, 7);
  }
  if (out.at) {
    const int64_t bytes = out.stride * int64_t(sizeof(float));
    INGLE_TILE_STORE(0, out.at, bytes);
    INGLE_TILE_STORE(1, out.at + 16, bytes);
    INGLE_TILE_STORE(2, out.at + 16 * out.stride, bytes);
    INGLE_TILE_STORE(3, out.at + 16 * out.stride + 16, bytes);
    return;
  }
  INGLE_TILE_STORE(0, sums[0], 64);
  INGLE_TILE_STORE(1, sums[1], 64);
  if (!lower) return;
  INGLE_TILE_STORE(2, sums[2], 64);
  INGLE_TILE_STORE(3, sums[3], 64);
}

// One step: a chunk of groups (fewer at the end of the rows) of one pair of panels.
struct Step {
  const uint8_t* panel[2];
  int64_t group, depth;
};

// Dequantises tiles [begin, end) of a step: tile i is group i / 2 of panel i % 2. The codes of the step after it are
// asked for; the hardware does not see that they come next.
template <int K>
INGLE_INLINE void dequantise_tiles(const Step& step, const Step& after, int64_t begin, int64_t end, int64_t groups_of_row,
                                   Simd::Table table, uint8_t* weights) {
  constexpr Format f = kFormats[K];
  end = end < 2 * step.depth ? end : 2 * step.depth;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t group = after.group + i / 2;
    const uint8_t* codes = after.panel[i % 2];
    if constexpr (K < kPlaneKinds) {
      constexpr int groups = f.unit_columns() / kGroup;
      codes += f.unit_at(group / groups) + (f.super() ? kSuper : 0) + size_t(group % groups) * f.group_bytes();
    } else {
      codes += group % (groups_of_row / tile_parts(K)) * kTileBytes;
    }
    for (size_t line = 0; line < size_t(kVector) * f.bits; line += kVector) __builtin_prefetch(codes + line);
    dequantise<K>(step.panel[i % 2], step.group + i / 2, groups_of_row, table, weights + i * kTileBytes);
  }
}

// At most kSums blocks of rows times pairs of panels. While the tiles of one step are multiplied, those
// of the next are dequantised, a few for each block of rows: two units of the core that work at the same time.
// `panel(pair, side)` is where the codes of a panel begin; what is done goes to `out(block, pair)`, or, where that is
// nowhere, `finish(block, pair, sums)` takes it.
template <int K, class Panel, class Destination, class Finish>
INGLE_INLINE void multiply_region(const uint16_t* tiles, int64_t m, int64_t groups, int64_t block_begin,
                                  int64_t block_end, int64_t pair_begin, int64_t pair_end, Panel panel, Destination out,
                                  Finish finish) {
  Scratch& s = scratch();
  const Simd::Table table = lookup_table<K>();
  const int64_t blocks = (m + kTileRows - 1) / kTileRows, n_blocks = block_end - block_begin;
  const int64_t n_pairs = pair_end - pair_begin;
  const int64_t depth = tile_depth(groups), steps = (groups + depth - 1) / depth * n_pairs;
  const auto step_at = [&](int64_t i) {
    const int64_t pair = pair_begin + i % n_pairs, group = i / n_pairs * depth;
    return Step{{panel(pair, 0), panel(pair, 1)}, group, groups - group < depth ? groups - group : depth};
  };
  const int64_t share = (2 * depth + n_blocks - 1) / n_blocks;
  Step step = step_at(0), next = step_at(steps > 1 ? 1 : 0);
  dequantise_tiles<K>(step, next, 0, 2 * depth, groups, table, s.weights[0]);
  for (int64_t i = 0; i < steps; ++i) {
    const bool more = i + 1 < steps;
    const Step after = i + 2 < steps ? step_at(i + 2) : next;
    const auto* rows = reinterpret_cast<const uint8_t*>(tiles + tile_at(block_begin, step.group, blocks, groups));
    Sums* sums = s.sums + i % n_pairs * n_blocks;
    const bool last = step.group + step.depth == groups;
    for (int64_t r = 0; r < n_blocks; ++r) {
      const Out to = last ? out(block_begin + r, pair_begin + i % n_pairs) : Out{};
      multiply_tiles(rows + r * step.depth * 2 * kTileBytes, s.weights[i % 2], step.depth,
                     m - (block_begin + r) * kTileRows > 16, step.group == 0, sums[r], to);
      if (more) dequantise_tiles<K>(next, after, r * share, (r + 1) * share, groups, table, s.weights[(i + 1) % 2]);
      if (last && !to.at) finish(block_begin + r, pair_begin + i % n_pairs, sums[r]);
    }
    step = next;
    next = after;
  }
}

// All rows by pairs of panels [pair_begin, pair_end).
template <int K, class Panel, class Destination, class Finish>
INGLE_INLINE void multiply_all(const uint16_t* tiles, int64_t m, int64_t k, int64_t pair_begin, int64_t pair_end,
                               Panel panel, Destination out, Finish finish) {
  if (pair_begin >= pair_end) return;
  const UseOfTiles use;
  const int64_t blocks = (m + kTileRows - 1) / kTileRows, groups = k / kGroup * tile_parts(K);
  // The more rows, the fewer times weights are dequantised; the fewer, the fewer times all rows are read.
  const bool stay = blocks * groups * kTileBlock * 2 <= kInCache, few = pair_end - pair_begin <= 32;
  const int64_t n_blocks = stay || few ? 16 : 8, n_pairs = kSums / n_blocks;
  for (int64_t b = 0; b < blocks; b += n_blocks) {
    for (int64_t p = pair_begin; p < pair_end; p += n_pairs) {
      multiply_region<K>(tiles, m, groups, b, b + n_blocks < blocks ? b + n_blocks : blocks, p,
                         p + n_pairs < pair_end ? p + n_pairs : pair_end, panel, out, finish);
    }
  }
}

template <int K>
void multiply_by_tiles(const Panels& w, const uint16_t* x, int64_t m, float* y, int64_t ldy, bool accumulate,
                       int64_t panel_begin, int64_t panel_end) {
  const int64_t last = (w.n + kPanelRows - 1) / kPanelRows - 1;
  // An odd last panel is its own partner; what that gives is beyond n and is not stored.
  const auto panel = [&](int64_t pair, int side) {
    const int64_t i = 2 * pair + side;
    return w.data + size_t(i < last ? i : last) * w.panel_bytes;
  };
  const auto out = [&](int64_t block, int64_t pair) {
    const bool whole = (block + 1) * kTileRows <= m && 2 * (pair + 1) * kPanelRows <= w.n;
    return Out{whole && !accumulate ? y + block * kTileRows * ldy + 2 * pair * kPanelRows : nullptr, ldy};
  };
  const auto finish = [&](int64_t block, int64_t pair, Sums& sums) {
    const int64_t rows = m - block * kTileRows < kTileRows ? m - block * kTileRows : kTileRows;
    for (int side = 0; side < 2; ++side) {
      const int64_t column = (2 * pair + side) * kPanelRows, left = w.n - column;
      if (left <= 0) break;
      const __mmask16 mask = left >= 16 ? 0xffff : __mmask16((1 << left) - 1);
      float* line = y + block * kTileRows * ldy + column;
      for (int64_t r = 0; r < rows; ++r, line += ldy) {
        F v = _mm512_load_ps(sums[r / 16 * 2 + side][r % 16]);
        if (accumulate) v = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, line), v);
        _mm512_mask_storeu_ps(line, mask, v);
      }
    }
  };
  multiply_all<K>(x, m, w.k, panel_begin / 2, (panel_end + 1) / 2, panel, out, finish);
}

// x / (1 + e^-x): a division takes half of the time that this has.
INGLE_INLINE F quick_silu(F x) {
  constexpr float kLog2E = 1.44269504f;
  const F d = 1.0f + power_of_two<false>(min(all(126.0f), x * -kLog2E));
  const F r = _mm512_rcp14_ps(d);
  return x * (r * (2.0f - d * r));  // one step of Newton's: 2^-14 becomes 2^-28
}

template <int K>
void multiply_gated(const Panels& gate_weights, const Panels& up, const uint16_t* x, int64_t m, Gate gate, uint16_t* out,
                    int64_t panel_begin, int64_t panel_end) {
  const int64_t blocks = (m + kTileRows - 1) / kTileRows, groups = up.n / kGroup;
  const auto panel = [&](int64_t pair, int side) {
    const Panels& w = side ? up : gate_weights;
    return w.data + size_t(pair) * w.panel_bytes;
  };
  const auto nowhere = [](int64_t, int64_t) { return Out{}; };
  multiply_all<K>(x, m, up.k, panel_begin, panel_end, panel, nowhere, [&](int64_t block, int64_t pair, Sums& sums) {
    uint16_t* tile = out + tile_at(block, pair / 2, blocks, groups) + pair % 2 * 16;
    const bool silu = gate.kind == Activation::kSilu;
    for (int half = 0; half < 2; ++half) {
      const int64_t rows = m - block * kTileRows - 16 * half;
      if (rows > 0 && !silu) gate.activate(gate.kind, &sums[2 * half][0][0], &sums[2 * half + 1][0][0], 256);
      for (int r = 0; r < 16; ++r, tile += kGroup) {
        F v{};
        if (rows > r) v = _mm512_load_ps(sums[2 * half][r]);
        if (rows > r && silu) v = quick_silu(v) * _mm512_load_ps(sums[2 * half + 1][r]);
        _mm256_store_si256(reinterpret_cast<__m256i*>(tile), __m256i(_mm512_cvtneps_pbh(v)));
      }
    }
  });
}

void pack_tiles(const float* x, int64_t ldx, int64_t n_rows, bool rest, uint16_t* tiles) {
  for (int64_t r = 0; r < kTileRows; ++r, x += ldx, tiles += kGroup) {
    I line = _mm512_setzero_si512();
    if (r < n_rows) {
      const F a = _mm512_loadu_ps(x), b = _mm512_loadu_ps(x + 16);
      line = rest ? to_bf16(rest_of(a), rest_of(b)) : to_bf16(a, b);
    }
    _mm512_store_si512(tiles, line);
  }
}

// 2 x 2 tiles of sums, each operand from the L1 cache.
void tile_peak(int64_t operations) {
  constexpr int64_t kEach = 4 * 2 * 16 * 16 * kGroup;
  alignas(64) static const uint8_t zeros[2][4][kTileBytes] = {};
  const UseOfTiles use;
  for (int64_t i = 0; i < operations / kEach; ++i) {
    const uint8_t(*tiles)[kTileBytes] = zeros[i % 2];
    INGLE_TILE_LOAD(4, tiles[0], 64);
    INGLE_TILE_LOAD(6, tiles[1], 64);
    INGLE_TILE_MULTIPLY(0, 4, 6);
    INGLE_TILE_LOAD(7, tiles[2], 64);
    INGLE_TILE_MULTIPLY(1, 4, 7);
    INGLE_TILE_LOAD(5, tiles[3], 64);
    INGLE_TILE_MULTIPLY(2, 5, 6);
    INGLE_TILE_MULTIPLY(3, 5, 7);
  }
}

#define INGLE_FOR_PLANES(f) \
  f<Q4_0>, f<Q4_1>, f<Q5_0>, f<Q5_1>, f<Q8_0>, f<IQ4_NL>, f<MXFP4>, f<Q2_K>, f<Q3_K>, f<Q4_K>, f<Q5_K>, f<Q6_K>

constexpr TileKernels kTileKernels = {
    12,  // measured: 10 to 12, by type
    {INGLE_FOR_PLANES(multiply_by_tiles), nullptr, multiply_by_tiles<F16>, multiply_by_tiles<BF16>},
    {INGLE_FOR_PLANES(multiply_gated)},
    pack_tiles};

Kernels make_tile_kernels() {
  Kernels table = *kernels_avx512();
  table.name = "amx";
  table.vectors = &vector_ops_amx();
  table.peak = tile_peak;
  table.tiles = &kTileKernels;
  return table;
}

}  // namespace

const Kernels* kernels_amx() {
  static const Kernels table = make_tile_kernels();
  return &table;
}

}  // namespace ingle
