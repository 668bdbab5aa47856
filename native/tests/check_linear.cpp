// Every kind of matrix, many shapes and row counts, in the running instruction set, against plain loops: for machines
// without Python, for emulators and for sanitizers. Exits with 1 if anything is off. For ARM on another machine:
//
//   cd native/src
//   aarch64-linux-gnu-g++ -O2 -std=c++20 -ffp-contract=off -march=armv8.2-a+dotprod -static -I. planes.cpp
//       ggml_blocks.cpp linear.cpp cpu.cpp kernels_portable.cpp kernels_neon.cpp ../tests/check_linear.cpp -o check
//   INGLE_ISA=neon qemu-aarch64-static check
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "arena.h"
#include "kernels.h"
#include "tiles.h"

using namespace ingle;

namespace {

std::mt19937 generator(1);
std::normal_distribution<float> normal;

// Where a block has 16-bit scales; -1 ends the list.
constexpr int kScalesAt[kPlaneKinds][3] = {{0, -1}, {0, 2, -1},   {0, -1},   {0, 2, -1}, {0, -1},    {0, -1},
                                           {-1},    {80, 82, -1}, {108, -1}, {0, 2, -1}, {0, 2, -1}, {208, -1}};

// Random codes; random finite scales: halves between 2^-8 and 2^-5, of both signs.
std::vector<uint8_t> random_matrix(Kind kind, int64_t n, int64_t k) {
  const Format& f = kFormats[kind];
  std::vector<uint8_t> data(size_t(n) * ggml_row_bytes(f.ggml_type, k));
  for (uint8_t& byte : data) byte = uint8_t(generator());
  for (size_t at = 0; at < data.size(); at += size_t(f.ggml_block_bytes)) {
    uint8_t* block = &data[at];
    if (kind == MXFP4) block[0] = uint8_t(118 + block[0] % 4);
    if (kind < kPlaneKinds) {
      for (const int* p = kScalesAt[kind]; *p >= 0; ++p) {
        const auto half = uint16_t((generator() & 0x8000) | (0x1c00 + generator() % 0xc00));
        std::memcpy(block + *p, &half, 2);
      }
    } else if (kind == F32) {
      const float value = normal(generator);
      std::memcpy(block, &value, 4);
    } else {  // numbers near 1 as halves, or near 2^-7 as bfloat16
      const auto value = uint16_t((generator() & 0x8000) | (0x3c00 + generator() % 0x200));
      std::memcpy(block, &value, 2);
    }
  }
  return data;
}

// What int8 groups make of x, by the definition in kernels.h.
std::vector<double> rounded(const std::vector<float>& x) {
  std::vector<double> out(x.size());
  for (size_t g = 0; g < x.size(); g += kGroup) {
    float largest = 0;
    for (size_t i = g; i < g + kGroup; ++i) largest = std::fmax(largest, std::fabs(x[i]));
    const float inverse = 127.0f / largest, scale = largest / 127.0f;
    for (size_t i = g; i < g + kGroup; ++i) {
      const float scaled = x[i] * inverse;
      out[i] = double(scale) * std::nearbyint(scaled);
    }
  }
  return out;
}

// The largest error relative to |w| |x|.
double worst_error(const Matrix& w, const std::vector<double>& weights, Kind kind, int64_t m, bool tiles) {
  std::vector<float> x(size_t(m * w.k)), y(size_t(m * w.n), 7.0f);
  for (float& value : x) value = normal(generator);
  constexpr int kThreads = 3;
  Input input;
  input.reserve(w, m, w.k);
  for (int t = 0; t < kThreads; ++t) input.prepare(x.data(), w.k, t, kThreads);
  for (int t = 0; t < kThreads; ++t) linear(w, input, y.data(), w.n, false, t, kThreads);
  const auto exact = kind < kPlaneKinds && !tiles ? rounded(x) : std::vector<double>(x.begin(), x.end());
  double worst = 0;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t r = 0; r < w.n; ++r) {
      double sum = 0, ww = 0, xx = 0;
      for (int64_t c = 0; c < w.k; ++c) {
        const double a = weights[size_t(r * w.k + c)], b = exact[size_t(i * w.k + c)];
        sum += a * b;
        ww += a * a;
        xx += b * b;
      }
      const double error = std::fabs(sum - y[size_t(i * w.n + r)]) / std::sqrt(ww * xx);
      if (!(error <= worst)) worst = error;  // a NaN stays
    }
  }
  return worst;
}

}  // namespace

int main() {
  int failures = 0;
  double worst = 0;
  for (int kind = 0; kind < kKinds; ++kind) {
    const Format& f = kFormats[kind];
    for (int64_t k : {32, 64, 288, 256, 512, 1536}) {
      if (k % f.ggml_block_columns) continue;
      for (int64_t n : {1, 15, 17, 40, 100}) {
        const auto data = random_matrix(Kind(kind), n, k);
        Arena arena;
        const auto w = matrix_allocate(arena, f.ggml_type, n, k);
        for (int t : {1, 0}) matrix_rearrange(*w, SourceInMemory(data.data()), t, 2);
        std::vector<float> row(size_t(k), 0);
        std::vector<double> weights;
        for (int64_t r = 0; r < n; ++r) {
          w->row(r, row.data());
          weights.insert(weights.end(), row.begin(), row.end());
        }
        for (int64_t m : {1, 2, 3, 5, 8, 9, 17, 40}) {
          const bool tiles = kernels().tiles && m >= kernels().tiles->rows_from && kind < kPlaneKinds;
          const double error = worst_error(*w, weights, Kind(kind), m, tiles);
          if (!tiles && error > worst) worst = error;
          if (!(error < (tiles ? 2e-2 : kind == F32 || kind < kPlaneKinds ? 2e-6 : 5e-5))) {
            ++failures;
            std::printf("GGML type %d, n %d, k %d, m %d: error %g\n", f.ggml_type, int(n), int(k), int(m), error);
          }
        }
      }
    }
  }
  std::printf("%s: largest error %.1e, %d failures\n", isa_name(), worst, failures);
  return failures != 0;
}
