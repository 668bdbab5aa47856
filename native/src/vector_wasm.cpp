#define INGLE_VECTOR_NAMESPACE vector_wasm
#include "vector_impl.h"

namespace ingle {

const VectorOps& vector_ops() { return vector_wasm::kOps; }

}  // namespace ingle
