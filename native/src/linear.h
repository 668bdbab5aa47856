// y = W x for quantised and float matrices: the contract between the kernels and the blocks.
//
// A matrix is rearranged once, when it is loaded, into bit planes (planes.h) in the order its kernels want. An input is
// prepared once per norm or activation (quantised in groups of 32 to int8, or rounded to bf16 tiles for AMX) and then
// used by every matrix that reads it. All threads of a team call the same function with their own index; work is cut
// by output rows only, so a result does not depend on the number of threads.
//
// Planes multiply activations as int8 in groups of 32 columns (ActivationGroup in kernels.h, the same in every
// instruction set), exactly but for the rounding of float sums; float matrices multiply floats. With matrix tiles (AMX,
// tiles.h), from 12 rows on, weights of planes and their activations are rounded to bf16 instead, and F16 and BF16
// matrices are multiplied to 2^-16. A NaN or infinity in a row makes all its outputs NaN (with tiles and floats: what
// IEEE arithmetic gives), never a number.
//
// Shapes: W is [n, k] (n outputs, k inputs), x is [m, k] row-major float, y is [m, n] row-major float.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "vector_ops.h"

namespace ingle {

class Arena;

// One matrix, rearranged. Types are GGML type numbers.
class Matrix {
 public:
  virtual ~Matrix() = default;
  int64_t n = 0, k = 0;
  virtual size_t bytes() const = 0;                   // memory it holds
  virtual void row(int64_t r, float* out) const = 0;  // dequantised row r: [k], bit for bit as ggml has it
};

// The bytes of a matrix in the GGML layout: n rows of k values.
class Source {
 public:
  virtual ~Source() = default;
  // n bytes from `offset`: where they are, or laid in `room`, which has n. Called by several threads at once.
  virtual const uint8_t* read(size_t offset, size_t n, uint8_t* room) const = 0;
};

class SourceInMemory final : public Source {
 public:
  explicit SourceInMemory(const uint8_t* data) : data_(data) {}
  const uint8_t* read(size_t offset, size_t, uint8_t*) const override { return data_ + offset; }

 private:
  const uint8_t* data_;
};

// Throws std::bad_alloc, or std::invalid_argument for an unknown type. First allocate, then each thread rearranges its
// share of the rows. What the source throws goes through.
std::unique_ptr<Matrix> matrix_allocate(Arena& arena, int ggml_type, int64_t n, int64_t k);
void matrix_rearrange(Matrix& w, const Source& source, int thread, int n_threads);

// Rows of activations in the forms the kernels want. Buffers grow and are kept between calls.
class Input {
 public:
  Input();
  ~Input();
  // Call by one thread before a region: reserves memory for m rows of k values, as wanted by `w`.
  // Matrices that share an input must have the same k; call once for each of them (forms add up until the next
  // prepare).
  void reserve(const Matrix& w, int64_t m, int64_t k);
  // Called by all threads: each prepares its share of the rows of x (row stride ldx). A barrier must follow before
  // linear().
  void prepare(const float* x, int64_t ldx, int thread, int n_threads);
  // The same for rows [begin, end), the first of which is at x; begin is a multiple of row_unit(). For those who have
  // just made these rows.
  void prepare_rows(const float* x, int64_t ldx, int64_t begin, int64_t end);
  int64_t row_unit() const;
  struct Impl;
  Impl* impl;
};

// Called by all threads with the same arguments: each computes its share of the outputs for all m rows.
// y[i * ldy + j] for i in [0, m), j in [0, n). No barrier inside. If `accumulate`, adds to y.
void linear(const Matrix& w, const Input& x, float* y, int64_t ldy, bool accumulate, int thread, int n_threads);

// The outputs that linear() computes on this thread: [begin, end).
struct Columns {
  int64_t begin, end;
};
Columns columns_of(const Matrix& w, int64_t m, int thread, int n_threads);

// Whether linear_gated() can compute the inner activations of these three matrices for m rows.
bool can_gate(const Matrix& gate, const Matrix& up, const Matrix& down, int64_t m);

// What becomes of gate and up: gate = act(gate) * up, over n values.
struct Gate {
  void (*activate)(Activation kind, float* gate, const float* up, int64_t n);
  Activation kind;
};

// Called by all threads: out = act(gate x) * (up x), prepared for `down`, for which it was reserved. No barrier inside.
void linear_gated(const Matrix& gate, const Matrix& up, const Input& x, Gate through, Input& out, int thread,
                  int n_threads);

// Which instruction sets this process uses: "portable", "avx2", "avxvnni", "avx512", "amx" or "neon". The environment
// variable INGLE_ISA lowers it; a name that is none throws std::invalid_argument. Decided once, at the first call.
const char* isa_name();

}  // namespace ingle
