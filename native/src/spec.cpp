#include "spec.h"

#include "errors.h"

namespace ingle {

void Spec::check() const {
  constexpr int64_t kMost = int64_t{1} << 31;
  for (const int64_t size : {n_vocab, n_embd, n_ff, n_heads, n_kv_heads, head_dim, static_cast<int64_t>(passes.size())})
    if (size < 1 || size >= kMost) throw BackendError("A size in the spec is not a positive 31-bit number.");
  if (n_heads % n_kv_heads) throw BackendError("Query heads cannot share the key/value heads evenly.");
  if (n_heads * head_dim >= kMost) throw BackendError("Heads times their size is too large.");
  if (!alibi_slopes.empty() && static_cast<int64_t>(alibi_slopes.size()) != n_heads)
    throw BackendError("Expected one ALiBi slope for each head.");
  for (const Rope& rope : ropes)
    if (2 * static_cast<int64_t>(rope.frequencies.size()) > head_dim)
      throw BackendError("The rotation has more dimensions than a head.");
  for (const Pass& pass : passes)
    if (pass.window < 0 || pass.rope < -1 || pass.rope >= static_cast<int>(ropes.size()))
      throw BackendError("A pass has a negative window or a rotation that does not exist.");
  if (experts.n_experts != 0 && (experts.n_experts < 1 || experts.n_experts >= kMost || experts.n_used < 1 ||
                                 experts.n_used > experts.n_experts || experts.n_ff < 1 || experts.n_ff >= kMost))
    throw BackendError("The mixture uses more experts than there are, or none.");
}

}  // namespace ingle
