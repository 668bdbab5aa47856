#define INGLE_VECTOR_NAMESPACE vector_avx2
#include "vector_impl.h"

namespace ingle {
extern const VectorOps vector_ops_avx2;
const VectorOps vector_ops_avx2 = vector_avx2::kOps;
}  // namespace ingle
