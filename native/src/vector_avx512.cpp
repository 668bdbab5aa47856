#define INGLE_VECTOR_NAMESPACE vector_avx512
#include "vector_impl.h"

namespace ingle {
extern const VectorOps vector_ops_avx512;
const VectorOps vector_ops_avx512 = vector_avx512::kOps;
}  // namespace ingle
