#include "planes.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <new>
#include <stdexcept>
#include <string>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "ggml_blocks.h"
#include "half.h"

namespace ingle {
namespace {

static_assert(std::endian::native == std::endian::little, "planes and GGML blocks are little-endian");

// Large matrices are read end to end for every token: with 2 MiB pages the address translation costs nothing.
constexpr size_t kHugePage = size_t(2) << 20;

size_t alignment_for(size_t bytes) { return bytes >= kHugePage ? kHugePage : size_t(kVector); }

uint8_t* allocate(size_t bytes) {
  auto* p = static_cast<uint8_t*>(::operator new(bytes, std::align_val_t(alignment_for(bytes))));
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  // Advice only: a failure changes nothing but speed. Whole pages only, the neighbours are not ours.
  if (bytes >= kHugePage) (void)madvise(p, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
  return p;
}

Kind kind_of(int ggml_type) {
  for (int i = 0; i < kKinds; ++i) {
    if (kFormats[i].ggml_type == ggml_type) return Kind(i);
  }
  throw std::invalid_argument(
      "Expected a tensor type with kernels (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, "
      "Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, MXFP4), but got GGML type " +
      std::to_string(ggml_type) + "; convert the model to one of these.");
}

void check_shape(const Format& f, int64_t n, int64_t k) {
  constexpr int64_t kMost = int64_t(1) << 40;
  if (n < 0 || k < 0 || n > kMost || k > kMost || (k > 0 && n > kMost / k)) {
    throw std::invalid_argument("Expected a matrix of a sensible size, but got " + std::to_string(n) + " x " +
                                std::to_string(k) + ".");
  }
  if (k % f.ggml_block_columns != 0) {
    throw std::invalid_argument("Expected rows of a multiple of " + std::to_string(f.ggml_block_columns) +
                                " columns for GGML type " + std::to_string(f.ggml_type) + ", but got " +
                                std::to_string(k) + ".");
  }
}

size_t panel_bytes_of(Kind kind, int64_t k) {
  const Format& f = kFormats[kind];
  if (kind >= kPlaneKinds) {  // rounded up, so that every panel begins on a line
    return (size_t(k) * kPanelRows * f.bits / 8 + kVector - 1) / kVector * kVector;
  }
  const int64_t units = k / f.unit_columns();
  return size_t(units / 2) * f.chunk_bytes() + (units % 2 ? f.header_bytes() + f.unit_bytes() : 0);
}

// Codes of four columns at once, one in each byte of a word.
uint32_t field(uint32_t word, int shift, uint32_t mask) { return (word >> shift) & (mask * 0x01010101u); }

// Spreads 32 codes of one row over the planes of a group; `lane` is the row's place in the first vector.
void write_codes(int bits, const uint8_t* codes, uint8_t* lane) {
  uint32_t c[8];
  std::memcpy(c, codes, sizeof c);
  const auto put = [&lane](uint32_t word) {
    std::memcpy(lane, &word, 4);
    lane += kVector;
  };
  int low = 0;  // bits of the planes written so far
  if (bits == 8) {
    for (uint32_t word : c) put(word);
  } else if (bits >= 4) {
    for (int j = 0; j < 4; ++j) put(field(c[j], 0, 15) | field(c[j + 4], 0, 15) << 4);
    low = 4;
  }
  if (bits == 2 || bits == 3 || bits == 6) {
    for (int j = 0; j < 2; ++j) {
      uint32_t word = 0;
      for (int t = 0; t < 4; ++t) word |= field(c[j + 2 * t], low, 3) << (2 * t);
      put(word);
    }
    low += 2;
  }
  if (bits == 3 || bits == 5) {
    uint32_t word = 0;
    for (int i = 0; i < 8; ++i) word |= field(c[i], low, 1) << i;
    put(word);
  }
}

void read_codes(int bits, const uint8_t* lane, uint8_t* codes) {
  uint32_t c[8] = {};
  const auto get = [&lane] {
    const auto word = load_unaligned<uint32_t>(lane);
    lane += kVector;
    return word;
  };
  int low = 0;
  if (bits == 8) {
    for (uint32_t& word : c) word = get();
  } else if (bits >= 4) {
    for (int j = 0; j < 4; ++j) {
      const uint32_t word = get();
      c[j] = field(word, 0, 15);
      c[j + 4] = field(word, 4, 15);
    }
    low = 4;
  }
  if (bits == 2 || bits == 3 || bits == 6) {
    for (int j = 0; j < 2; ++j) {
      const uint32_t word = get();
      for (int t = 0; t < 4; ++t) c[j + 2 * t] |= field(word, 2 * t, 3) << low;
    }
    low += 2;
  }
  if (bits == 3 || bits == 5) {
    const uint32_t word = get();
    for (int i = 0; i < 8; ++i) c[i] |= field(word, i, 1) << low;
  }
  std::memcpy(codes, c, sizeof c);
}

void write_unit(const Format& f, const Unit& unit, int64_t u, int row, uint8_t* panel) {
  std::memcpy(panel + f.scale_at(u) + 2 * row, &unit.scale, 2);
  if (f.minimum) std::memcpy(panel + f.minimum_at(u) + 2 * row, &unit.minimum, 2);
  uint8_t* at = panel + f.unit_at(u);
  if (f.super()) {
    for (int i = 0; i < 16; ++i) at[kPanelRows * i + row] = unit.sub_scales[i];
    at += kSuper;
  }
  for (int g = 0; g < f.unit_columns() / kGroup; ++g) {
    write_codes(f.bits, unit.codes + kGroup * g, at + g * f.group_bytes() + kQuad * row);
  }
}

// Scale and minimum of `half` (16 columns) of group g: what multiplies and what is added. Each product is rounded as in
// ggml: (d * sub-scale) * code, then the minimum is added.
struct ScalePair {
  float scale, minimum;
};

ScalePair scales_of(const Format& f, const uint8_t* panel, int64_t u, int g, int half, int row) {
  const auto raw = load_unaligned<uint16_t>(panel + f.scale_at(u) + 2 * row);
  const float d = f.scale == Scale::bf16 ? bfloat_to_float(raw) : half_to_float(raw);
  const float m = f.minimum ? half_to_float(load_unaligned<uint16_t>(panel + f.minimum_at(u) + 2 * row)) : 0.0f;
  const uint8_t* subs = panel + f.unit_at(u) + row;
  switch (f.scale) {
    case Scale::u8_pairs: return {d * float(subs[32 * g]), m * float(subs[32 * g + 16])};
    case Scale::i8: return {d * float(int8_t(subs[32 * g + 16 * half])), 0.0f};
    case Scale::u4_pairs: {
      const uint8_t pair = subs[32 * g + 16 * half];
      return {d * float(pair & 15), m * float(pair >> 4)};
    }
    default: return {d, m};
  }
}

float element(Kind kind, const uint8_t* p) {
  if (kind == F32) return load_unaligned<float>(p);
  return kind == F16 ? half_to_float(load_unaligned<uint16_t>(p)) : bfloat_to_float(load_unaligned<uint16_t>(p));
}

}  // namespace

PanelMatrix::PanelMatrix(int ggml_type, int64_t n_rows, int64_t n_columns) : kind_(kind_of(ggml_type)) {
  check_shape(kFormats[kind_], n_rows, n_columns);
  n = n_rows;
  k = n_columns;
  panel_bytes_ = panel_bytes_of(kind_, k);
  if (bytes() > 0) data_ = allocate(bytes());
}

PanelMatrix::~PanelMatrix() {
  if (data_) ::operator delete(data_, std::align_val_t(alignment_for(bytes())));
}

void PanelMatrix::rearrange(const uint8_t* source, int64_t panel_begin, int64_t panel_end) {
  const Format& f = kFormats[kind_];
  const size_t row_bytes = size_t(k / f.ggml_block_columns) * size_t(f.ggml_block_bytes);
  Unit unit;
  for (int64_t p = panel_begin; p < panel_end; ++p) {
    uint8_t* panel = data_ + size_t(p) * panel_bytes_;
    const int rows = int(std::min<int64_t>(kPanelRows, n - p * kPanelRows));
    if (rows < kPanelRows) std::memset(panel, 0, panel_bytes_);
    for (int r = 0; r < rows; ++r) {
      const uint8_t* row = source + size_t(p * kPanelRows + r) * row_bytes;
      if (kind_ >= kPlaneKinds) {
        const size_t size = size_t(f.ggml_block_bytes);
        for (int64_t c = 0; c < k; ++c) {
          std::memcpy(panel + (size_t(c) * kPanelRows + size_t(r)) * size, row + size_t(c) * size, size);
        }
        continue;
      }
      for (int64_t u = 0; u < k / f.unit_columns(); ++u) {
        read_block(kind_, row + size_t(u) * size_t(f.ggml_block_bytes), unit);
        write_unit(f, unit, u, r, panel);
      }
    }
  }
}

void PanelMatrix::row(int64_t r, float* out) const {
  if (r < 0 || r >= n) {
    throw std::invalid_argument("Expected a row below " + std::to_string(n) + ", but got " + std::to_string(r) + ".");
  }
  const Format& f = kFormats[kind_];
  const uint8_t* panel = data_ + size_t(r / kPanelRows) * panel_bytes_;
  const int lane = int(r % kPanelRows);
  if (kind_ >= kPlaneKinds) {
    const size_t size = size_t(f.ggml_block_bytes);
    for (int64_t c = 0; c < k; ++c) out[c] = element(kind_, panel + (size_t(c) * kPanelRows + size_t(lane)) * size);
    return;
  }
  uint8_t codes[kGroup];
  for (int64_t u = 0; u < k / f.unit_columns(); ++u) {
    const uint8_t* planes = panel + f.unit_at(u) + (f.super() ? kSuper : 0);
    for (int g = 0; g < f.unit_columns() / kGroup; ++g) {
      read_codes(f.bits, planes + g * f.group_bytes() + kQuad * lane, codes);
      for (int i = 0; i < kGroup; ++i) {
        const ScalePair s = scales_of(f, panel, u, g, i / 16, lane);
        const float code = f.lookup() ? float(kTables[int(f.table)][codes[i]]) : float(int(codes[i]) - f.zero);
        const float scaled = s.scale * code;
        *out++ = f.minimum ? scaled + s.minimum : scaled;
      }
    }
  }
}

size_t ggml_row_bytes(int ggml_type, int64_t k) {
  const Format& f = kFormats[kind_of(ggml_type)];
  check_shape(f, 1, k);
  return size_t(k / f.ggml_block_columns) * size_t(f.ggml_block_bytes);
}

}  // namespace ingle
