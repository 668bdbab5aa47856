#define INGLE_VECTOR_NAMESPACE vector_portable
#include "vector_impl.h"

namespace ingle {
extern const VectorOps vector_ops_portable;
const VectorOps vector_ops_portable = vector_portable::kOps;
}  // namespace ingle
