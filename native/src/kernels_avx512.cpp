#include "simd_avx512.h"

#include "kernels_impl.h"
#include "vector_impl.h"

namespace ingle {

const Kernels* kernels_avx512() {
  static constexpr Kernels table = make_kernels("avx512", &kVectorOps);
  return &table;
}

}  // namespace ingle
