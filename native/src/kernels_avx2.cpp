#include "simd_avx2.h"

#include "kernels_impl.h"

namespace ingle {

const Kernels* kernels_avx2() {
  static constexpr Kernels table = make_kernels("avx2");
  return &table;
}

}  // namespace ingle
