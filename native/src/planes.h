// How a matrix lies in memory after loading: panels of 16 output rows, bit planes, scales beside them.
//
// A *panel* holds 16 rows (the last one is filled up with rows whose scales are zero). Its columns are cut into groups
// of 32, each group into 8 *quads* of 4 columns. The codes of one quad of a panel are 16 rows x 4 bytes = one vector of
// 64 bytes, so that lane r of a dot product of bytes (VNNI, sdot) belongs to row r. Below 8 bits the vectors of several
// quads share their bytes:
//
//   8 bits   8 vectors: vector i = quad i
//   4 bits   4 vectors: vector j = quad j in the low nibbles, quad j + 4 in the high ones
//   2 bits   2 vectors: vector j = quads j, j + 2, j + 4, j + 6, from the low bits up
//   1 bit    1 vector:  bit i = quad i
//   3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2: the planes follow each other, low bits first
//
// One group so takes 64 * bits bytes. A *unit* is what one 16-bit scale covers: one group, or a super-block of 256
// columns with 256 bytes of 8-bit sub-scales before its codes. Two units make a *chunk*, so that everything stays on
// 64-byte lines for any k:
//
//   chunk = d of unit 0 [16 x u16] | d of unit 1 | (minimum of unit 0 | of unit 1) | unit 0 | unit 1
//
// If the number of units is odd, the last chunk ends after its unit 0. A weight is
//
//   scale * (code - zero) + minimum
//
// with scale = d, or d * sub-scale; minimum = 0, or m, or -dmin * sub-minimum (the sign is turned once, at loading).
// Nothing is rounded: `row` gives bit for bit what dequantising the GGML bytes gives.
//
// Bytes per weight against GGML's: equal, except Q4_K +2.8 %, Q5_K +2.3 %, Q3_K +3.6 % (6-bit sub-scales in bytes) and
// MXFP4 +5.9 % (8-bit exponents as bf16), plus at most 96 bytes a panel where the number of units is odd.
//
// Float matrices are panels too: for each column 16 values of the stored type, one for each row; any k.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "linear.h"

namespace ingle {

inline constexpr int kPanelRows = 16;
inline constexpr int kGroup = 32;   // columns that share an activation scale
inline constexpr int kQuad = 4;     // columns in one vector
inline constexpr int kVector = 64;  // bytes: kPanelRows * kQuad
inline constexpr int kSuper = 256;  // columns of a super-block, and bytes of its sub-scales

// What kernels are made for. The order is that of kFormats.
enum Kind : int { Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL, MXFP4, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, F32, F16, BF16, kKinds };
inline constexpr int kPlaneKinds = F32;  // kinds below are bit planes, the others floats

enum class Scale : uint8_t {
  f16,       // d is a half
  bf16,      // d is a bfloat16
  u8_pairs,  // half d times 8 x (16 scales, 16 minima), unsigned bytes
  i8,        // half d times 16 x 16 scales, signed bytes
  u4_pairs,  // half d times 16 x 16 bytes: scale in the low nibble, minimum in the high one
};

enum class Table : uint8_t { none, iq4nl, mxfp4 };

struct Format {
  int ggml_type;
  int ggml_block_columns;
  int ggml_block_bytes;
  int bits;   // of a stored code; for floats of a value
  int group;  // columns that share a scale: 16 or 32
  Scale scale;
  bool minimum;
  int zero;  // 128 where codes are whole signed bytes
  Table table;

  // Inlined by force: files of different instruction sets must not share a copy (see kernels.h).
  [[gnu::always_inline]] constexpr bool super() const { return scale != Scale::f16 && scale != Scale::bf16; }
  [[gnu::always_inline]] constexpr bool lookup() const { return table != Table::none; }
  [[gnu::always_inline]] constexpr bool bytes() const { return bits == 8 || lookup(); }  // whole, in products
  [[gnu::always_inline]] constexpr int unit_columns() const { return super() ? kSuper : kGroup; }
  [[gnu::always_inline]] constexpr size_t group_bytes() const { return size_t(kVector) * bits; }
  [[gnu::always_inline]] constexpr size_t unit_bytes() const {
    return (super() ? kSuper : 0) + unit_columns() / kGroup * group_bytes();
  }
  [[gnu::always_inline]] constexpr size_t header_bytes() const { return minimum ? 2 * kVector : kVector; }
  [[gnu::always_inline]] constexpr size_t chunk_bytes() const { return header_bytes() + 2 * unit_bytes(); }
  // Where unit u of a panel has its d, its minimum and its sub-scales or codes.
  [[gnu::always_inline]] constexpr size_t scale_at(int64_t u) const {
    return size_t(u >> 1) * chunk_bytes() + size_t(u & 1) * 32;
  }
  [[gnu::always_inline]] constexpr size_t minimum_at(int64_t u) const { return scale_at(u) + kVector; }
  [[gnu::always_inline]] constexpr size_t unit_at(int64_t u) const {
    return size_t(u >> 1) * chunk_bytes() + header_bytes() + size_t(u & 1) * unit_bytes();
  }
};

// What looked-up codes stand for, by Table.
inline constexpr int8_t kTables[3][16] = {
    {},
    {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113},
    {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12},  // twice the values of the OCP specification, as in ggml
};

inline constexpr Format kFormats[kKinds] = {
    {2, 32, 18, 4, 32, Scale::f16, false, 8, Table::none},         // Q4_0
    {3, 32, 20, 4, 32, Scale::f16, true, 0, Table::none},          // Q4_1
    {6, 32, 22, 5, 32, Scale::f16, false, 16, Table::none},        // Q5_0
    {7, 32, 24, 5, 32, Scale::f16, true, 0, Table::none},          // Q5_1
    {8, 32, 34, 8, 32, Scale::f16, false, 128, Table::none},       // Q8_0
    {20, 32, 18, 4, 32, Scale::f16, false, 128, Table::iq4nl},     // IQ4_NL
    {39, 32, 17, 4, 32, Scale::bf16, false, 128, Table::mxfp4},    // MXFP4: values and scale as in ggml, both halved
    {10, 256, 84, 2, 16, Scale::u4_pairs, true, 0, Table::none},   // Q2_K
    {11, 256, 110, 3, 16, Scale::i8, false, 4, Table::none},       // Q3_K
    {12, 256, 144, 4, 32, Scale::u8_pairs, true, 0, Table::none},  // Q4_K
    {13, 256, 176, 5, 32, Scale::u8_pairs, true, 0, Table::none},  // Q5_K
    {14, 256, 210, 6, 16, Scale::i8, false, 32, Table::none},      // Q6_K
    {0, 1, 4, 32, 1, Scale::f16, false, 0, Table::none},           // F32
    {1, 1, 2, 16, 1, Scale::f16, false, 0, Table::none},           // F16
    {30, 1, 2, 16, 1, Scale::f16, false, 0, Table::none},          // BF16
};

// A matrix as kernels see it.
struct Panels {
  const uint8_t* data;  // on a 64-byte line
  size_t panel_bytes;
  int64_t n, k;
};

// The one class behind Matrix.
class PanelMatrix final : public Matrix {
 public:
  // Throws std::invalid_argument for an unknown type, a negative size or a k that is no multiple of the type's block.
  PanelMatrix(Arena& arena, int ggml_type, int64_t n, int64_t k);
  // In memory that is there already: panels_bytes() on a 64-byte line.
  PanelMatrix(std::shared_ptr<uint8_t> data, int ggml_type, int64_t n, int64_t k);

  size_t bytes() const override { return panel_bytes_ * size_t(panels()); }
  void row(int64_t r, float* out) const override;
  void rearrange(const Source& source, int64_t panel_begin, int64_t panel_end);
  // The same from 16 rows for each panel, the first of them at `rows`; those beyond n are zeros.
  void write(const uint8_t* rows, int64_t panel_begin, int64_t panel_end);

  Kind kind() const { return kind_; }
  int64_t panels() const { return (n + kPanelRows - 1) / kPanelRows; }
  Panels view() const { return {data_.get(), panel_bytes_, n, k}; }

 private:
  Kind kind_;
  size_t panel_bytes_ = 0;
  std::shared_ptr<uint8_t> data_;
};

// Bytes of one row of k values in the GGML layout, and of a matrix in panels. They throw as PanelMatrix does.
size_t ggml_row_bytes(int ggml_type, int64_t k);
size_t panels_bytes(int ggml_type, int64_t n, int64_t k);
// For a matrix that is to be loaded. Throws UnsupportedError for what PanelMatrix refuses, and BackendError where it has
// no values, or n_bytes are not those of n rows of k.
void check_matrix(int ggml_type, int64_t n, int64_t k, size_t n_bytes);
Kind kind_of(int ggml_type);

}  // namespace ingle
