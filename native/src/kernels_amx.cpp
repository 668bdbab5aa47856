#include "simd_avx512.h"

#include "kernels_impl.h"

namespace ingle {

const Kernels* kernels_amx() {
  static constexpr Kernels table = make_kernels("amx");
  return &table;
}

}  // namespace ingle
