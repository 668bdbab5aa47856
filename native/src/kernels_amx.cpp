// Matrix tiles (AMX): 16 x 32 by 32 x 16 products of bfloat16 in one instruction. Few rows go the way of AVX-512.
//
// Weights are dequantised tile by tile to bf16 (a tile: 32 columns of a panel, column pairs by outputs) and used for
// all rows; activations are rounded to bf16 without passing through int8. Both roundings are relative, at most 2^-9,
// which is closer than int8 in groups of 32 comes.
#include "simd_avx512.h"

#include "kernels_impl.h"

namespace ingle {
namespace {

// The compiler's tile intrinsics do not say that they touch memory (GCC 12), so stores before them may be lost.
#define INGLE_TILE_LOAD(tile, address, stride) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(address), "r"(int64_t(stride)) : "memory")
#define INGLE_TILE_STORE(tile, address, stride) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(address), "r"(int64_t(stride)) : "memory")
#define INGLE_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile : :)
#define INGLE_TILE_MULTIPLY(sum, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum : :)

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

constexpr int kTileBytes = 1024;
constexpr int64_t kDepth = 8;      // groups of columns in one step: the weight tiles of two panels stay in the L1 cache
constexpr int64_t kPairs = 8;      // pairs of panels that share one pass over the activations
constexpr int64_t kRowBlocks = 8;  // blocks of 32 rows, so that the sums of kPairs pairs fit the L2 cache
constexpr int64_t kStepTiles = 2 * kDepth;

struct Scratch {
  alignas(64) uint8_t weights[2][kStepTiles * kTileBytes];  // of this step and of the next one
  alignas(64) float sums[kRowBlocks * kPairs][4][16][16];   // per block of rows and pair: 2 x 2 tiles
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
INGLE_INLINE void store_pairs(F even, F odd, uint16_t* line) {
  const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                              6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  const __m512i both = __m512i(_mm512_cvtne2ps_pbh(odd, even));
  _mm512_store_si512(line, _mm512_permutexvar_epi16(interleave, both));
}

// Byte `Byte` of each lane as a float plus 256: the code goes into the mantissa of 256.0.
template <int Byte>
INGLE_INLINE F code_plus_256(I codes) {
  I placed;
  if constexpr (Byte <= 1) placed = _mm512_slli_epi32(codes, 15 - 8 * Byte);
  else placed = _mm512_srli_epi32(codes, 8 * Byte - 15);
  const I bits = _mm512_ternarylogic_epi32(_mm512_set1_epi32(0x43800000), placed, _mm512_set1_epi32(0xff << 15), 0xf8);
  return _mm512_castsi512_ps(bits);
}

// Group `group` (of 32 columns) of a panel as a tile of bf16 weights.
template <int K>
INGLE_INLINE void dequantise(const uint8_t* panel, int64_t group, Simd::Table table, uint16_t* tile) {
  constexpr Format f = kFormats[K];
  constexpr int groups = f.unit_columns() / kGroup;
  const int64_t u = group / groups;
  const int g = int(group % groups);
  const uint8_t* subs = panel + f.unit_at(u);
  F scale[2], minimum[2];
  load_sub_scales<K>(subs, g, load_scale<K>(panel + f.scale_at(u)),
                     f.minimum ? Simd::load_f16(panel + f.minimum_at(u)) : Simd::zero(), scale, minimum);
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
    store_pairs(w0, w1, tile + 64 * i);
    store_pairs(w2, w3, tile + 64 * i + 32);
  }
}

// sums (2 x 2 tiles) += rows (2 tiles a group) * weights (2 tiles a group) over `depth` groups.
INGLE_INLINE void multiply_tiles(const uint8_t* rows, const uint8_t* weights, int64_t depth, bool lower, bool first,
                                 float (*sums)[16][16]) {
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
  if (lower) {
    for (int64_t i = 0; i < depth; ++i, rows += 2 * kTileBytes, weights += 2 * kTileBytes) {
      INGLE_TILE_LOAD(4, rows, 64);
      INGLE_TILE_LOAD(6, weights, 64);
      INGLE_TILE_MULTIPLY(0, 4, 6);
      INGLE_TILE_LOAD(7, weights + kTileBytes, 64);
      INGLE_TILE_MULTIPLY(1, 4, 7);
      INGLE_TILE_LOAD(5, rows + kTileBytes, 64);
      INGLE_TILE_MULTIPLY(2, 5, 6);
      INGLE_TILE_MULTIPLY(3, 5, 7);
    }
  } else {  // at most 16 rows
    for (int64_t i = 0; i < depth; ++i, rows += 2 * kTileBytes, weights += 2 * kTileBytes) {
      INGLE_TILE_LOAD(4, rows, 64);
      INGLE_TILE_LOAD(6, weights, 64);
      INGLE_TILE_MULTIPLY(0, 4, 6);
      INGLE_TILE_LOAD(7, weights + kTileBytes, 64);
      INGLE_TILE_MULTIPLY(1, 4, 7);
    }
  }
  INGLE_TILE_STORE(0, sums[0], 64);
  INGLE_TILE_STORE(1, sums[1], 64);
  INGLE_TILE_STORE(2, sums[2], 64);
  INGLE_TILE_STORE(3, sums[3], 64);
}

// Writes or adds the sums of one block of rows and `pairs` pairs of panels to y, row after row: the outputs from
// `column` that are below n.
void store_sums(const float (*sums)[4][16][16], int rows, int64_t pairs, float* y, int64_t ldy, int64_t column,
                int64_t n, bool accumulate) {
  for (int r = 0; r < rows; ++r) {
    for (int64_t i = 0; i < 2 * pairs; ++i) {
      const int64_t left = n - column - 16 * i;
      if (left <= 0) break;
      const __mmask16 mask = left >= 16 ? 0xffff : __mmask16((1 << left) - 1);
      float* out = y + r * ldy + column + 16 * i;
      F v = _mm512_load_ps(sums[i / 2][r / 16 * 2 + i % 2][r % 16]);
      if (accumulate) v = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), v);
      _mm512_mask_storeu_ps(out, mask, v);
    }
  }
}

// One step: kDepth groups (fewer at the end of the rows) of one pair of panels.
struct Step {
  const uint8_t* panel[2];
  int64_t group, depth;
};

// Dequantises tiles [begin, end) of a step: tile i is group i / 2 of panel i % 2. The codes of the step after it are
// asked for; the hardware does not see that they come next.
template <int K>
INGLE_INLINE void dequantise_tiles(const Step& step, const Step& after, int64_t begin, int64_t end, Simd::Table table,
                                   uint8_t* weights) {
  constexpr Format f = kFormats[K];
  constexpr int groups = f.unit_columns() / kGroup;
  end = end < 2 * step.depth ? end : 2 * step.depth;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t group = after.group + i / 2;
    const uint8_t* codes = after.panel[i % 2] + f.unit_at(group / groups) + (f.super() ? kSuper : 0);
    for (size_t line = 0; line < f.group_bytes(); line += kVector) {
      Simd::prefetch(codes + size_t(group % groups) * f.group_bytes() + line);
    }
    dequantise<K>(step.panel[i % 2], step.group + i / 2, table, reinterpret_cast<uint16_t*>(weights + i * kTileBytes));
  }
}

// At most kRowBlocks blocks of rows by at most kPairs pairs of panels. While the tiles of one step are multiplied,
// those of the next are dequantised, a few for each block of rows: two units of the core that work at the same time.
template <int K>
void multiply_region(const Panels& w, const uint8_t* tiles, int64_t m, float* y, int64_t ldy, bool accumulate,
                     int64_t panel_begin, int64_t panel_end, Simd::Table table, Scratch& s) {
  const int64_t groups = w.k / kGroup;
  const int64_t row_blocks = (m + kTileRows - 1) / kTileRows;
  const int64_t pairs = (panel_end - panel_begin + 1) / 2;
  const int64_t steps = (groups + kDepth - 1) / kDepth * pairs;
  const auto step_at = [&](int64_t i) {
    const int64_t p = panel_begin + i % pairs * 2;
    const int64_t group = i / pairs * kDepth;
    const uint8_t* panel = w.data + size_t(p) * w.panel_bytes;
    // An odd last panel is its own partner; what that gives is beyond n and is not stored.
    return Step{{panel, p + 1 < panel_end ? panel + w.panel_bytes : panel},
                group,
                groups - group < kDepth ? groups - group : kDepth};
  };
  const int64_t share = (kStepTiles + row_blocks - 1) / row_blocks;
  Step step = step_at(0), next = step_at(steps > 1 ? 1 : 0);
  dequantise_tiles<K>(step, next, 0, kStepTiles, table, s.weights[0]);
  for (int64_t i = 0; i < steps; ++i) {
    const bool more = i + 1 < steps;
    const Step after = i + 2 < steps ? step_at(i + 2) : next;
    for (int64_t r = 0; r < row_blocks; ++r) {
      multiply_tiles(tiles + size_t(r * groups + step.group) * 2 * kTileBytes, s.weights[i % 2], step.depth,
                     m - r * kTileRows > 16, step.group == 0, s.sums[r * kPairs + i % pairs]);
      if (more) dequantise_tiles<K>(next, after, r * share, (r + 1) * share, table, s.weights[(i + 1) % 2]);
    }
    step = next;
    next = after;
  }
  for (int64_t r = 0; r < row_blocks; ++r) {
    const int64_t left = m - r * kTileRows;
    store_sums(s.sums + r * kPairs, int(left < kTileRows ? left : kTileRows), pairs, y + r * kTileRows * ldy, ldy,
               panel_begin * kPanelRows, w.n, accumulate);
  }
}

template <int K>
void multiply_by_tiles(const Panels& w, const void* x, int64_t m, float* y, int64_t ldy, bool accumulate,
                       int64_t panel_begin, int64_t panel_end) {
  if (panel_begin >= panel_end) return;
  if (w.k == 0) return multiply<K>(w, x, m, y, ldy, accumulate, panel_begin, panel_end);  // zeros
  const TileConfig config;
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
  constexpr int64_t kRows = kRowBlocks * kTileRows;
  const auto* tiles = static_cast<const uint8_t*>(x);
  for (int64_t row = 0; row < m; row += kRows) {
    for (int64_t p = panel_begin; p < panel_end; p += 2 * kPairs) {
      multiply_region<K>(w, tiles + size_t(row / kTileRows * (w.k / kGroup)) * 2 * kTileBytes,
                         m - row < kRows ? m - row : kRows, y + row * ldy, ldy, accumulate, p,
                         p + 2 * kPairs < panel_end ? p + 2 * kPairs : panel_end, lookup_table<K>(), scratch());
    }
  }
  __asm__ volatile("tilerelease" : :);
}

// Tiles lie as [block of 32 rows][group][upper, lower 16 rows][16][32].
void pack_tiles(const float* x, int64_t ldx, int64_t m, int64_t k, int64_t mb, int64_t kt, uint16_t* tiles) {
  uint16_t* out = tiles + (mb * (k / kGroup) + kt) * kTileBlock;
  for (int64_t r = 0; r < kTileRows; ++r, out += kGroup) {
    __m512i line = _mm512_setzero_si512();
    if (mb * kTileRows + r < m) {
      const float* row = x + (mb * kTileRows + r) * ldx + kt * kGroup;
      line = __m512i(_mm512_cvtne2ps_pbh(_mm512_loadu_ps(row + 16), _mm512_loadu_ps(row)));
    }
    _mm512_store_si512(out, line);
  }
}

// 2 x 2 tiles of sums, each operand from the L1 cache.
void tile_peak(int64_t operations) {
  constexpr int64_t kEach = 4 * 2 * 16 * 16 * kGroup;
  alignas(64) static const uint8_t zeros[2][4][kTileBytes] = {};
  const TileConfig config;
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
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
  __asm__ volatile("tilerelease" : :);
}

constexpr Kernels make_tile_kernels() {
  Kernels table = make_kernels("amx");
  const LinearFunction functions[kPlaneKinds] = {
      multiply_by_tiles<Q4_0>, multiply_by_tiles<Q4_1>,   multiply_by_tiles<Q5_0>,  multiply_by_tiles<Q5_1>,
      multiply_by_tiles<Q8_0>, multiply_by_tiles<IQ4_NL>, multiply_by_tiles<MXFP4>, multiply_by_tiles<Q2_K>,
      multiply_by_tiles<Q3_K>, multiply_by_tiles<Q4_K>,   multiply_by_tiles<Q5_K>,  multiply_by_tiles<Q6_K>};
  for (int i = 0; i < kPlaneKinds; ++i) table.linear_tiles[i] = functions[i];
  table.pack_tiles = pack_tiles;
  table.peak = tile_peak;
  table.tiles_from = 12;  // measured: 10 to 12, by type
  return table;
}

}  // namespace

const Kernels* kernels_amx() {
  static constexpr Kernels table = make_tile_kernels();
  return &table;
}

}  // namespace ingle
