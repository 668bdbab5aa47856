// Python bindings for tests of the kernels: one matrix, one product.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "arena.h"
#include "linear.h"
#include "planes.h"
#include "probe.h"

namespace nb = nanobind;

namespace ingle {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

std::unique_ptr<Matrix> load(int type, int64_t n, int64_t k, const Bytes& data, int n_threads) {
  Arena arena;
  auto matrix = matrix_allocate(arena, type, n, k);
  const size_t expected = size_t(n) * ggml_row_bytes(type, k);
  if (data.size() != expected) {
    throw std::invalid_argument("Expected " + std::to_string(expected) + " bytes for this matrix, but got " +
                                std::to_string(data.size()) + ".");
  }
  for (int t = 0; t < n_threads; ++t) matrix_rearrange(*matrix, SourceInMemory(data.data()), t, n_threads);
  return matrix;
}

Result result(int64_t rows, int64_t columns, float*& values) {
  values = new float[size_t(rows * columns)]();
  const nb::capsule owner(values, [](void* p) noexcept { delete[] static_cast<float*>(p); });
  return Result(values, {size_t(rows), size_t(columns)}, owner);
}

template <class Function>
void on_threads(int n_threads, Function f) {
  std::vector<std::thread> others;
  for (int t = 1; t < n_threads; ++t) others.emplace_back(f, t);
  f(0);
  for (std::thread& other : others) other.join();
}

Result linear_once(int type, int64_t n, int64_t k, const Bytes& data, const Rows& x, int n_threads,
                   const std::optional<Rows>& start) {
  if (n_threads < 1 || n_threads > 1024) throw std::invalid_argument("Expected 1 to 1024 threads.");
  const auto matrix = load(type, n, k, data, n_threads);
  const auto m = int64_t(x.shape(0));
  if (int64_t(x.shape(1)) != k) throw std::invalid_argument("Expected x of shape [m, k].");
  float* y = nullptr;
  Result out = result(m, n, y);
  if (start) {
    if (start->shape(0) != size_t(m) || start->shape(1) != size_t(n)) {
      throw std::invalid_argument("Expected start of shape [m, n].");
    }
    std::copy(start->data(), start->data() + m * n, y);
  }
  Input input;
  input.reserve(*matrix, m, k);
  on_threads(n_threads, [&](int t) { input.prepare(x.data(), k, t, n_threads); });
  on_threads(n_threads, [&](int t) { linear(*matrix, input, y, n, start.has_value(), t, n_threads); });
  return out;
}

Result matrix_rows(int type, int64_t n, int64_t k, const Bytes& data) {
  const auto matrix = load(type, n, k, data, 1);
  float* values = nullptr;
  Result out = result(n, k, values);
  for (int64_t r = 0; r < n; ++r) matrix->row(r, values + r * k);
  return out;
}

}  // namespace

void bind_kernels(nb::module_& m) {
  using namespace nb::literals;
  m.def("linear_once", &linear_once, "type_id"_a, "n"_a, "k"_a, "data"_a, "x"_a, "threads"_a = 1,
        "start"_a = nb::none(),
        "W x for W of `n` rows and `k` columns given as GGML bytes and x float32 [m, k], plus `start`; float32 [m, n]. "
        "For tests.");
  m.def("matrix_rows", &matrix_rows, "type_id"_a, "n"_a, "k"_a, "data"_a,
        "The matrix dequantised from its planes: float32 [n, k]. For tests.");
  const auto released = nb::call_guard<nb::gil_scoped_release>();
  m.def("read_bandwidth", &read_bandwidth, released, "n_bytes"_a, "threads"_a,
        "GB/s at which so many threads read n_bytes over and over; takes up to half a second, and the memory.");
  m.def("multiply_rate", &multiply_rate, released, "threads"_a,
        "GOP/s (an addition and a multiplication are two) that so many threads reach with the unit that prefill uses.");
  m.def("matrix_bytes", &panels_bytes, "type_id"_a, "n"_a, "k"_a, "Bytes that a matrix takes when it is loaded.");
  m.def("isa", &isa_name, "The instruction set in use: portable, avx2, avxvnni, avx512, amx or neon.");
}

}  // namespace ingle
