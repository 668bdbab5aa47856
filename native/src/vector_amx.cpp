// What stands between the matrices, with attention on matrix tiles.
#include "simd_avx512.h"

#include "vector_impl.h"

namespace ingle {

const VectorOps& vector_ops_amx();  // kernels_amx.cpp
const VectorOps& vector_ops_amx() { return kVectorOps; }

}  // namespace ingle
