// What every instruction set offers: a table of functions. One .cpp for each set fills it from kernels_impl.h.
//
// The files of instruction sets are compiled with flags that the process may not be allowed to execute. So they hold
// nothing that the linker could share with other files: everything is in anonymous namespaces, and they call no inline
// function or template of the standard library (a copy of std::min with AVX-512 in it would be used everywhere).
#pragma once
#include <cstdint>

#include "planes.h"

namespace ingle {

struct TileKernels;
struct VectorOps;

// 32 activations of one row: x is about scale * q. Symmetric: scale = max|x| / 127, q = round to nearest even of
// x * (127 / max|x|). A group that holds a NaN or an infinity gets scale NaN, so that every output of the row is NaN;
// one whose largest value is below 1e-30 is zero.
struct alignas(16) ActivationGroup {
  int8_t q[kGroup];
  float scale;
  float sum[3];  // of q, over columns 0..15, 16..31 and all: multiplies the zero of a format, or a minimum
};
static_assert(sizeof(ActivationGroup) == 48);

// Outputs of panels [panel_begin, panel_end) for all m rows. `x` is one of
//   quantised: const ActivationGroup [k / 32][m]
//   float:     const float [m][k]
// y[i * ldy + j], j over all outputs; written, or added to if `accumulate`.
using LinearFunction = void (*)(const Panels& w, const void* x, int64_t m, float* y, int64_t ldy, bool accumulate,
                                int64_t panel_begin, int64_t panel_end);

struct Kernels {
  const char* name;
  const VectorOps* vectors;
  // One row, or consecutive groups of it: group g goes to out[g * step].
  void (*quantise)(const float* x, int64_t groups, ActivationGroup* out, int64_t step);
  LinearFunction linear[kKinds];  // quantised input for planes, float input for floats

  // Does about so many multiplications and additions with operands at hand, and nothing else: the roof of prefill.
  void (*peak)(int64_t operations);

  const TileKernels* tiles;  // for many rows; null without a matrix unit
};

const Kernels* kernels_portable();
#if defined(__x86_64__) || defined(_M_X64)
const Kernels* kernels_avx2();
const Kernels* kernels_avxvnni();
const Kernels* kernels_avx512();
const Kernels* kernels_amx();
#endif
#if defined(__aarch64__)
const Kernels* kernels_neon();
#endif

// The best set that this CPU and operating system allow and INGLE_ISA does not forbid. Decided at the first call.
// Throws std::invalid_argument if INGLE_ISA is no known name.
const Kernels& kernels();

}  // namespace ingle
