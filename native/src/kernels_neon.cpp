#include "simd_neon.h"

#include "kernels_impl.h"
#include "vector_impl.h"

namespace ingle {

const Kernels* kernels_neon() {
  static constexpr Kernels table = make_kernels("neon", &kVectorOps);
  return &table;
}

}  // namespace ingle
