#include "planes.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arena.h"
#include "errors.h"
#include "ggml_blocks.h"

namespace ingle {
namespace {

static_assert(std::endian::native == std::endian::little, "planes and GGML blocks are little-endian");

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

}  // namespace

Kind kind_of(int ggml_type) {
  for (int i = 0; i < kKinds; ++i) {
    if (kFormats[i].ggml_type == ggml_type) return Kind(i);
  }
  throw std::invalid_argument(
      "Expected a tensor type with kernels (F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, "
      "Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, MXFP4), but got GGML type " +
      std::to_string(ggml_type) + "; convert the model to one of these.");
}

PanelMatrix::PanelMatrix(std::shared_ptr<uint8_t> data, int ggml_type, int64_t n_rows, int64_t n_columns)
    : kind_(kind_of(ggml_type)), data_(std::move(data)) {
  check_shape(kFormats[kind_], n_rows, n_columns);
  n = n_rows;
  k = n_columns;
  panel_bytes_ = panel_bytes_of(kind_, k);
}

PanelMatrix::PanelMatrix(Arena& arena, int ggml_type, int64_t n_rows, int64_t n_columns)
    : PanelMatrix(nullptr, ggml_type, n_rows, n_columns) {
  data_ = arena.take(bytes());
}

void PanelMatrix::rearrange(const Source& source, int64_t begin, int64_t end) {
  constexpr size_t kPiece = 128 << 10;  // read at once: stays in the second cache until it is written to the panels
  const size_t row_bytes = ggml_row_bytes(kFormats[kind_].ggml_type, k), rows_bytes = kPanelRows * row_bytes;
  if (rows_bytes == 0) return;
  const int64_t step = int64_t(std::max<size_t>(1, kPiece / rows_bytes));
  std::vector<uint8_t> room(rows_bytes * size_t(std::min(step, end - begin)));
  for (int64_t p = begin; p < end; p += step) {
    const int64_t panels = std::min(step, end - p), rows = std::min(panels * kPanelRows, n - p * kPanelRows);
    const uint8_t* from = source.read(size_t(p) * rows_bytes, size_t(rows) * row_bytes, room.data());
    for (int64_t i = 0; i < panels; ++i, from += rows_bytes) {
      if (const int64_t left = n - (p + i) * kPanelRows; left < kPanelRows) {  // filled up with zeros
        std::memmove(room.data(), from, size_t(left) * row_bytes);
        std::memset(room.data() + size_t(left) * row_bytes, 0, size_t(kPanelRows - left) * row_bytes);
        from = room.data();
      }
      write(from, p + i, p + i + 1);
    }
  }
}

void PanelMatrix::write(const uint8_t* rows, int64_t begin, int64_t end) {
  const size_t row_bytes = ggml_row_bytes(kFormats[kind_].ggml_type, k);
  for (int64_t p = begin; p < end; ++p, rows += kPanelRows * row_bytes)
    write_panel(kind_, rows, row_bytes, data_.get() + size_t(p) * panel_bytes_);
}

void PanelMatrix::row(int64_t r, float* out) const {
  if (r < 0 || r >= n) {
    throw std::invalid_argument("Expected a row below " + std::to_string(n) + ", but got " + std::to_string(r) + ".");
  }
  read_row(kind_, data_.get() + size_t(r / kPanelRows) * panel_bytes_, int(r % kPanelRows), k, out);
}

size_t panels_bytes(int ggml_type, int64_t n, int64_t k) {
  const Kind kind = kind_of(ggml_type);
  check_shape(kFormats[kind], n, k);
  return panel_bytes_of(kind, k) * size_t((n + kPanelRows - 1) / kPanelRows);
}

size_t ggml_row_bytes(int ggml_type, int64_t k) {
  const Format& f = kFormats[kind_of(ggml_type)];
  check_shape(f, 1, k);
  return size_t(k / f.ggml_block_columns) * size_t(f.ggml_block_bytes);
}

void check_matrix(int ggml_type, int64_t n, int64_t k, size_t n_bytes) {
  size_t row_bytes = 0;
  try {
    row_bytes = ggml_row_bytes(ggml_type, k);
  } catch (const std::invalid_argument& error) {
    throw UnsupportedError(error.what());
  }
  if (n < 1 || k < 1 || n >= int64_t{1} << 31 || k >= int64_t{1} << 31 || n_bytes / row_bytes != size_t(n) ||
      n_bytes % row_bytes != 0)
    throw BackendError("A matrix of shape [" + std::to_string(n) + ", " + std::to_string(k) + "] came with " +
                       std::to_string(n_bytes) + " bytes; expected rows of " + std::to_string(row_bytes) + " bytes.");
}

}  // namespace ingle
