#include "simd.h"

namespace ingle {
namespace {
using Simd = Vectors<16>;
}
}  // namespace ingle

#include "kernels_impl.h"
#include "vector_impl.h"

namespace ingle {

const Kernels* kernels_portable() {
  static constexpr Kernels table = make_kernels("portable", &kVectorOps);
  return &table;
}

}  // namespace ingle
