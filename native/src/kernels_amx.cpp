// Matrix tiles (AMX): 16 x 32 by 32 x 16 products of bfloat16 in one instruction. Few rows go the way of AVX-512.
//
// Weights are dequantised tile by tile to bf16 (a tile: 32 columns of a panel, column pairs by outputs) and used for all
// rows; activations are rounded to bf16 without passing through int8. Both roundings are relative, at most 2^-9, which
// is closer than int8 in groups of 32 comes.
#include "simd_avx512.h"

#include "kernels_impl.h"

namespace ingle {
namespace {

// The compiler's tile intrinsics do not say that they touch memory (GCC 12), so stores before them may be lost.
#define INGLE_TILE_LOAD(tile, address, stride)                              \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(address), "r"(int64_t(stride)) : "memory")
#define INGLE_TILE_STORE(tile, address, stride)                             \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(address), "r"(int64_t(stride)) : "memory")
#define INGLE_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile : :)
#define INGLE_TILE_MULTIPLY(sum, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum : :)

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

constexpr int kTileBytes = 1024;
constexpr int64_t kDepth = 16;    // groups of columns whose weight tiles are kept at a time: 32 KiB for two panels
constexpr int64_t kPairs = 8;     // pairs of panels that share one pass over the activations
constexpr int64_t kRowBlocks = 16;  // blocks of 32 rows, so that the sums of kPairs pairs fit the L2 cache

struct Scratch {
  alignas(64) uint8_t weights[kDepth * 2 * kTileBytes];
  alignas(64) float sums[kRowBlocks * kPairs][4][16][16];  // per block of rows and pair: 2 x 2 tiles
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
  const __m512i interleave = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                              21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
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

// Writes or adds a block of 2 x 2 tiles to y: `rows` of 32 rows, the outputs from `column` that are below n.
void store_block(const float (*sums)[16][16], int rows, float* y, int64_t ldy, int64_t column, int64_t n, bool accumulate) {
  for (int part = 0; part < 2; ++part) {
    const int64_t left = n - column - 16 * part;
    if (left <= 0) return;
    const __mmask16 mask = left >= 16 ? 0xffff : __mmask16((1 << left) - 1);
    for (int r = 0; r < rows; ++r) {
      float* out = y + r * ldy + column + 16 * part;
      F v = _mm512_load_ps(sums[r / 16 * 2 + part][r % 16]);
      if (accumulate) v = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, out), v);
      _mm512_mask_storeu_ps(out, mask, v);
    }
  }
}

template <int K>
void multiply_by_tiles(const Panels& w, const void* x, int64_t m, float* y, int64_t ldy, bool accumulate,
                       int64_t panel_begin, int64_t panel_end) {
  if (panel_begin >= panel_end) return;
  constexpr Format f = kFormats[K];
  uint8_t values[16] = {};
  if constexpr (f.table != nullptr) {
    for (int i = 0; i < 16; ++i) values[i] = uint8_t(f.table[i] + 128);
  }
  const Simd::Table table = Simd::table(values);
  Scratch& s = scratch();
  const TileConfig config;
  __asm__ volatile("ldtilecfg %0" : : "m"(config));
  const int64_t groups = w.k / kGroup;
  const int64_t row_blocks = (m + kTileRows - 1) / kTileRows;
  const auto* tiles = static_cast<const uint8_t*>(x);
  for (int64_t r0 = 0; r0 < row_blocks; r0 += kRowBlocks) {
    const int64_t r1 = r0 + kRowBlocks < row_blocks ? r0 + kRowBlocks : row_blocks;
    for (int64_t p0 = panel_begin; p0 < panel_end; p0 += 2 * kPairs) {
      const int64_t p1 = p0 + 2 * kPairs < panel_end ? p0 + 2 * kPairs : panel_end;
      for (int64_t g0 = 0; g0 < groups; g0 += kDepth) {
        const int64_t depth = g0 + kDepth < groups ? kDepth : groups - g0;
        for (int64_t p = p0; p < p1; p += 2) {
          const uint8_t* panel = w.data + size_t(p) * w.panel_bytes;
          // An odd last panel is its own partner; what that gives is beyond n and is not stored.
          const uint8_t* partner = p + 1 < p1 ? panel + w.panel_bytes : panel;
          for (int64_t i = 0; i < depth; ++i) {
            auto* tile = reinterpret_cast<uint16_t*>(s.weights + i * 2 * kTileBytes);
            dequantise<K>(panel, g0 + i, table, tile);
            dequantise<K>(partner, g0 + i, table, tile + kTileBytes / 2);
          }
          for (int64_t r = r0; r < r1; ++r) {
            auto* sums = s.sums[(r - r0) * kPairs + (p - p0) / 2];
            multiply_tiles(tiles + size_t(r * groups + g0) * 2 * kTileBytes, s.weights, depth, m - r * kTileRows > 16,
                           g0 == 0, sums);
            if (g0 + depth == groups) {
              const int rows = m - r * kTileRows < kTileRows ? int(m - r * kTileRows) : int(kTileRows);
              store_block(sums, rows, y + r * kTileRows * ldy, ldy, p * kPanelRows, w.n, accumulate);
            }
          }
        }
      }
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

constexpr Kernels make_tile_kernels() {
  Kernels table = make_kernels("amx");
  const LinearFunction functions[kPlaneKinds] = {
      multiply_by_tiles<Q4_0>, multiply_by_tiles<Q4_1>,   multiply_by_tiles<Q5_0>,  multiply_by_tiles<Q5_1>,
      multiply_by_tiles<Q8_0>, multiply_by_tiles<IQ4_NL>, multiply_by_tiles<MXFP4>, multiply_by_tiles<Q2_K>,
      multiply_by_tiles<Q3_K>, multiply_by_tiles<Q4_K>,   multiply_by_tiles<Q5_K>,  multiply_by_tiles<Q6_K>};
  for (int i = 0; i < kPlaneKinds; ++i) table.linear_tiles[i] = functions[i];
  table.pack_tiles = pack_tiles;
  table.tiles_from = 16;
  return table;
}

}  // namespace

const Kernels* kernels_amx() {
  static constexpr Kernels table = make_tile_kernels();
  return &table;
}

}  // namespace ingle
