// The border with JavaScript: plain functions over numbers and addresses in the module's memory.
//
// Objects are addresses; what makes one gives 0 where it fails, other functions give 0 or 1, and ingle_error() says
// why. Memory that the host fills (tensors, names, rows) comes from ingle_allocate; names end with a zero byte. The
// host keeps the order: spec, decoder, weights and blocks, cache, then the verbs, as in decoder.h.
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "arena.h"
#include "decoder.h"
#include "errors.h"
#include "planes.h"
#include "sample.h"

namespace ingle {
namespace {

using Block = std::variant<Embedding, AttentionBlock, FeedForwardBlock, Output>;
using SharedCache = std::shared_ptr<Cache>;

// A decoder with the state of its last embed.
struct Session {
  explicit Session(Spec spec) : decoder(std::move(spec), 1) {}
  Arena arena;
  Decoder decoder;
  State state;
};

std::string last_error;

// Keeps what the exception in flight says, after the name of its class in ingle.errors.
void keep_error() {
  try {
    throw;
  } catch (const MemoryLimitError& error) {
    last_error = std::string("MemoryLimitError: ") + error.what();
  } catch (const std::bad_alloc&) {
    last_error = "MemoryLimitError: The page has no memory left for this; close other tabs or load a smaller model.";
  } catch (const UnsupportedError& error) {
    last_error = std::string("UnsupportedError: ") + error.what();
  } catch (const std::invalid_argument& error) {  // of a matrix
    last_error = std::string("UnsupportedError: ") + error.what();
  } catch (const std::exception& error) {
    last_error = std::string("BackendError: ") + error.what();
  }
}

// What f gives, or nothing where it throws.
template <class F>
auto guarded(F f) -> decltype(f()) {
  try {
    return f();
  } catch (...) {
    keep_error();
    return {};
  }
}

template <class T>
const T& as(const Block* block, const char* what) {
  if (const T* wanted = block ? std::get_if<T>(block) : nullptr) return *wanted;
  throw BackendError(std::string("Expected ") + what + ".");
}

template <class T>
T choice(double value, T last) {
  if (value >= 0 && value <= static_cast<double>(last)) return static_cast<T>(static_cast<int>(value));
  throw BackendError("Unknown kind " + std::to_string(static_cast<int64_t>(value)) + ".");
}

// Field by field, by the names of spec.h; enumerations count from 0.
void set(Spec& spec, std::string_view name, double value) {
  const std::pair<std::string_view, std::variant<int64_t*, float*, bool*, NormKind*, Activation*>> fields[] = {
      {"n_vocab", &spec.n_vocab}, {"n_embd", &spec.n_embd}, {"n_ff", &spec.n_ff}, {"n_heads", &spec.n_heads},
      {"n_kv_heads", &spec.n_kv_heads}, {"head_dim", &spec.head_dim}, {"norm", &spec.norm}, {"gated", &spec.gated},
      {"norm_eps", &spec.norm_eps}, {"activation", &spec.activation}, {"parallel", &spec.parallel},
      {"post_norm", &spec.post_norm}, {"qk_norm", &spec.qk_norm}, {"score_scale", &spec.score_scale},
      {"attention_softcap", &spec.attention_softcap}, {"embed_scale", &spec.embed_scale},
      {"logit_scale", &spec.logit_scale}, {"logit_softcap", &spec.logit_softcap},
      {"n_experts", &spec.experts.n_experts}, {"n_experts_used", &spec.experts.n_used},
      {"n_expert_ff", &spec.experts.n_ff}, {"experts_normalised", &spec.experts.normalised}};
  for (const auto& [known, field] : fields) {
    if (name != known) continue;
    if (auto* kind = std::get_if<NormKind*>(&field)) **kind = choice(value, NormKind::kLayer);
    else if (auto* act = std::get_if<Activation*>(&field)) **act = choice(value, Activation::kRelu2);
    else if (auto* number = std::get_if<float*>(&field)) **number = static_cast<float>(value);
    else if (auto* flag = std::get_if<bool*>(&field)) **flag = value != 0;
    else **std::get_if<int64_t*>(&field) = static_cast<int64_t>(value);
    return;
  }
  throw BackendError("A spec has no " + std::string(name) + ".");
}

}  // namespace
}  // namespace ingle

using namespace ingle;
constexpr std::align_val_t kLine{64};

#define INGLE_EXPORT(name) extern "C" __attribute__((export_name("ingle_" #name)))

INGLE_EXPORT(error) const char* error() { return last_error.c_str(); }
INGLE_EXPORT(allocate) void* allocate(size_t bytes) { return ::operator new(bytes, kLine, std::nothrow); }
INGLE_EXPORT(free) void release(void* p) { ::operator delete(p, kLine); }

// A spec is filled field by field, then consumed by its decoder. Rotations are counted from 0 in the order of add_rope.
INGLE_EXPORT(new_spec) Spec* new_spec() {
  return guarded([] { return new Spec; });
}
INGLE_EXPORT(set) int set_field(Spec* spec, const char* name, double value) {
  return guarded([&] { return set(*spec, name, value), 1; });
}
INGLE_EXPORT(set_alibi) int set_alibi(Spec* spec, const float* slopes, size_t n) {
  return guarded([&] { return spec->alibi_slopes.assign(slopes, slopes + n), 1; });
}
INGLE_EXPORT(add_rope) int add_rope(Spec* spec, int half, double magnitude, const double* frequencies, size_t n) {
  return guarded([&] { return spec->ropes.push_back({half != 0, magnitude, {frequencies, frequencies + n}}), 1; });
}
INGLE_EXPORT(add_pass) int add_pass(Spec* spec, int window, int rope) {
  return guarded([&] { return spec->passes.push_back({window, rope}), 1; });
}

INGLE_EXPORT(new_decoder) Session* new_decoder(Spec* spec) {
  return guarded([&] { return new Session(std::move(*std::unique_ptr<Spec>(spec))); });
}
INGLE_EXPORT(free_decoder) void free_decoder(Session* session) { delete session; }

// Weights are gathered by role (ingle.backends.base names them), then consumed by their block: 0 embedding, 1 attention,
// 2 feed-forward, 3 output. A matrix is made, then written piece by piece: rows from first_row, a multiple of 16, in the
// GGML layout; as many multiples of 16 as the host likes, or the last ones. The bytes may be freed after the call.
INGLE_EXPORT(new_weights) Weights* new_weights() {
  return guarded([] { return new Weights; });
}
INGLE_EXPORT(add_matrix)
PanelMatrix* add_matrix(Session* session, Weights* weights, const char* role, int type, int n, int k) {
  return guarded([&] {
    if (n < 1 || k < 1 || k >= 1 << 23) throw UnsupportedError("Expected a matrix of less than 2^23 columns.");
    // What cannot have an address is refused before anything is multiplied in 32 bits.
    if (static_cast<double>(ggml_row_bytes(type, k)) * (n + 15.0) > 3e9) throw std::bad_alloc();
    auto matrix = std::make_shared<PanelMatrix>(session->arena, type, n, k);
    weights->matrices[role] = matrix;
    return matrix.get();
  });
}
INGLE_EXPORT(write_rows)
int write_rows(PanelMatrix* matrix, int first_row, int n_rows, const uint8_t* data, size_t n_bytes) {
  return guarded([&] {
    const int64_t end = int64_t{first_row} + n_rows;
    const size_t row_bytes = ggml_row_bytes(kFormats[matrix->kind()].ggml_type, matrix->k);
    if (first_row < 0 || first_row % kPanelRows != 0 || n_rows < 1 || end > matrix->n ||
        (end % kPanelRows != 0 && end != matrix->n) || n_bytes != static_cast<size_t>(n_rows) * row_bytes)
      throw BackendError("Expected whole panels of 16 rows of " + std::to_string(row_bytes) + " bytes.");
    const SourceInMemory source(data - static_cast<size_t>(first_row) * row_bytes);
    matrix->rearrange(source, first_row / kPanelRows, (end + kPanelRows - 1) / kPanelRows);
    return 1;
  });
}
INGLE_EXPORT(add_vector) int add_vector(Weights* weights, const char* role, const float* values, size_t n) {
  return guarded([&] { return weights->vectors[role].assign(values, values + n), 1; });
}
INGLE_EXPORT(share_weight) int share_weight(Weights* weights, const Block* embedding) {
  return guarded([&] { return weights->matrices["weight"] = as<Embedding>(embedding, "an embedding").weight, 1; });
}
INGLE_EXPORT(make_block) Block* make_block(const Session* session, Weights* weights, int kind) {
  return guarded([&] {
    const Spec& spec = session->decoder.spec();
    Weights taken = std::move(*std::unique_ptr<Weights>(weights));
    switch (kind) {
      case 0: return new Block(make_embedding(spec, std::move(taken)));
      case 1: return new Block(make_attention_block(spec, std::move(taken)));
      case 2: return new Block(make_feed_forward_block(spec, std::move(taken)));
      case 3: return new Block(make_output(spec, std::move(taken), spec.n_vocab));
      default: throw BackendError("Expected a kind of block from 0 to 3.");
    }
  });
}
INGLE_EXPORT(free_block) void free_block(Block* block) { delete block; }

// KV types are those of vector_ops.h, from 0.
INGLE_EXPORT(cache_bytes) double cache_bytes(const Session* session, int n_slots, int context, int kv_type) {
  return guarded([&] {
    const KVType type = choice(kv_type, KVType::kQ4);
    return static_cast<double>(Cache::bytes_needed(session->decoder.spec(), n_slots, context, type));
  });
}
INGLE_EXPORT(new_cache) SharedCache* new_cache(const Session* session, int n_slots, int context, int kv_type) {
  return guarded([&] {
    const KVType type = choice(kv_type, KVType::kQ4);
    return new SharedCache(std::make_shared<Cache>(session->decoder.spec(), n_slots, context, type));
  });
}
INGLE_EXPORT(copy_cache) int copy_cache(SharedCache* cache, int source, int target, int n) {
  return guarded([&] { return (*cache)->copy(source, target, n), 1; });
}
INGLE_EXPORT(free_cache) void free_cache(SharedCache* cache) { delete cache; }

// The verbs. One of tokens [n] (with an embedding) and hidden [n, E] is 0. The others go on from the last embed.
INGLE_EXPORT(embed)
int embed(Session* session, const Block* embedding, const int32_t* tokens, const float* hidden, const int32_t* slots,
          const int32_t* positions, int n, SharedCache* cache) {
  return guarded([&] {
    const Embedding none;
    const Embedding& block = tokens ? as<Embedding>(embedding, "an embedding") : none;
    session->state = session->decoder.embed(block, tokens, hidden, slots, positions, n, *cache);
    return 1;
  });
}
INGLE_EXPORT(attention) int attention(Session* session, const Block* block, int pass) {
  return guarded([&] {
    return session->decoder.attention(as<AttentionBlock>(block, "an attention block"), session->state, pass), 1;
  });
}
INGLE_EXPORT(feed_forward) int feed_forward(Session* session, const Block* block, int pass) {
  return guarded([&] {
    return session->decoder.feed_forward(as<FeedForwardBlock>(block, "a feed-forward block"), session->state, pass), 1;
  });
}
// The last block's output [n, E], before it joins the residual: to read, or to add other devices' parts to.
INGLE_EXPORT(delta) float* delta(const Session* session) {
  return session->state.delta ? session->state.delta->data() : nullptr;
}
INGLE_EXPORT(logits) int logits(Session* session, const Block* output, const int32_t* wanted, int n, float* out) {
  return guarded([&] {
    return session->decoder.logits(as<Output>(output, "an output"), session->state, wanted, n, out), 1;
  });
}

// Draws from logits [n] as sample.h says; the token, or -1.
INGLE_EXPORT(sample)
int draw(const float* logits, int n, const int32_t* history, int n_history, double repeat_penalty, int top_k,
         double top_p, double min_p, double temperature, double uniform) {
  return guarded([&] {
           const Sampling how{repeat_penalty, top_k, top_p, min_p, temperature, uniform};
           return static_cast<int>(sample(logits, n, history, n_history, how).token) + 1;
         }) - 1;
}
