#include "simd_avx2.h"

#include "kernels_impl.h"

namespace ingle {

const Kernels* kernels_avxvnni() {
  static constexpr Kernels table = make_kernels("avxvnni");
  return &table;
}

}  // namespace ingle
