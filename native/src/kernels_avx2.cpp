#include "simd_avx2.h"

#include "kernels_impl.h"
#include "vector_impl.h"

namespace ingle {

const Kernels* kernels_avx2() {
  static constexpr Kernels table = make_kernels("avx2", &kVectorOps);
  return &table;
}

}  // namespace ingle
