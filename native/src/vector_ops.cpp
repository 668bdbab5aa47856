#include "vector_ops.h"

#include <string_view>

#include "linear.h"

namespace ingle {

extern const VectorOps vector_ops_portable;
#if defined(__x86_64__)
extern const VectorOps vector_ops_avx2;
extern const VectorOps vector_ops_avx512;
extern const VectorOps vector_ops_amx;
#endif

const VectorOps& vector_ops() {
  static const VectorOps& ops = []() -> const VectorOps& {
#if defined(__x86_64__)
    const std::string_view isa = isa_name();
    if (isa == "amx") return vector_ops_amx;
    if (isa == "avx512") return vector_ops_avx512;
    if (isa.starts_with("avx")) return vector_ops_avx2;
#endif
    return vector_ops_portable;  // on 64-bit Arm the portable file is compiled to NEON
  }();
  return ops;
}

}  // namespace ingle
