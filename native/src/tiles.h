// Products of many rows on a matrix unit (AMX): what kernels.h is for vectors.
//
// A unit multiplies tiles of bf16. Activations are rounded once, to
//
//   tiles = [chunk of groups][block of 32 rows][group of 32 columns][upper, lower 16 rows][16][32]
//
// so that what a step of the product reads lies together; rows from m on are zeros. Weights are dequantised to tiles
// step by step, in the cache, and used for all rows. Both roundings are relative, at most 2^-9, which is closer than
// int8 in groups of 32 comes.
#pragma once
#include <cstdint>

#include "planes.h"

namespace ingle {

inline constexpr int64_t kTileRows = 32;        // rows of one block of tiles
inline constexpr int64_t kTileBlock = 32 * 32;  // values of one group of one block
inline constexpr int64_t kTileDepth = 9;        // most groups of a chunk: what the L1 cache has room for

[[gnu::always_inline]] constexpr int64_t tile_parts(int kind) { return kind == F16 ? 3 : kind == BF16 ? 2 : 1; }

// Groups of a chunk: 8, or where that leaves a short one, as few chunks of one size as can be. A short chunk costs as
// much as a whole one.
[[gnu::always_inline]] constexpr int64_t tile_depth(int64_t groups) {
  if (groups % 8 == 0) return 8;
  const int64_t chunks = (groups + kTileDepth - 1) / kTileDepth;
  return (groups + chunks - 1) / chunks;
}

// Where the values of group `group` (of `groups`) of row block `block` (of `blocks`) begin.
[[gnu::always_inline]] constexpr int64_t tile_at(int64_t block, int64_t group, int64_t blocks, int64_t groups) {
  const int64_t most = tile_depth(groups), begin = group / most * most;
  const int64_t depth = groups - begin < most ? groups - begin : most;
  return (begin * blocks + block * depth + group - begin) * kTileBlock;
}

struct TileKernels {
  int64_t rows_from;  // rows from which tiles are faster
  // Outputs of panels [panel_begin, panel_end), panel_begin even: y[i * ldy + j] written, or added to if `accumulate`.
  void (*linear[kKinds])(const Panels& w, const uint16_t* x, int64_t m, float* y, int64_t ldy, bool accumulate,
                         int64_t panel_begin, int64_t panel_end);
  // The same panels of two matrices of one kind of planes, through `gate`, as tiles for the next product: n is a multiple of 32.
  void (*gated[kKinds])(const Panels& gate_weights, const Panels& up, const uint16_t* x, int64_t m, Gate gate,
                        uint16_t* out, int64_t panel_begin, int64_t panel_end);
  // Rounds 32 columns of up to 32 rows of x, or with `rest` what that rounding leaves of them, to one group of a block.
  void (*pack)(const float* x, int64_t ldx, int64_t n_rows, bool rest, uint16_t* tiles);
};

}  // namespace ingle
