// WebAssembly has no instruction sets to choose from at run time: this table is the one that a module has.
#include "simd_wasm.h"

#include "kernels_impl.h"

namespace ingle {

const Kernels& kernels() {
  static constexpr Kernels table = make_kernels("wasm");
  return table;
}

const char* isa_name() { return kernels().name; }

}  // namespace ingle
