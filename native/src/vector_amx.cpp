#define INGLE_VECTOR_NAMESPACE vector_amx
#include "vector_impl.h"

namespace ingle {
extern const VectorOps vector_ops_amx;
const VectorOps vector_ops_amx = vector_amx::kOps;
}  // namespace ingle
