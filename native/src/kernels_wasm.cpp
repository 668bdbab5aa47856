// WebAssembly has no instruction sets to choose from at run time: this table is the one that a module has.
#include "simd_wasm.h"

#include "kernels_impl.h"
#include "vector_impl.h"

namespace ingle {

const Kernels& kernels() {
  static constexpr Kernels table = make_kernels("wasm", &kVectorOps);
  return table;
}

const char* isa_name() { return kernels().name; }

const VectorOps& vector_ops() { return kVectorOps; }

}  // namespace ingle
