// AVX2 with a better dot product; what stands between the matrices is the same.
#include "simd_avx2.h"

#include "kernels_impl.h"

namespace ingle {

const Kernels* kernels_avxvnni() {
  static const Kernels table = make_kernels("avxvnni", kernels_avx2()->vectors);
  return &table;
}

}  // namespace ingle
