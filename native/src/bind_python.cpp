// The Python module ingle._core: the decoder, its blocks and cache, the sampler, and the quantiser.
//
// Every call that computes releases the GIL. Arrays must have exactly the type and order given here (nothing is
// converted silently); backends/native.py sees to it and is the only intended caller.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "cache.h"
#include "decoder.h"
#include "errors.h"
#include "planes.h"
#include "quantize.h"
#include "reading.h"
#include "sample.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace ingle {

void bind_kernels(nb::module_& m);
void bind_stream(nb::module_& m);

namespace {

template <class T, int N>
using In = nb::ndarray<const T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;
using FloatMatrix = nb::ndarray<nb::numpy, float, nb::ndim<2>>;

// Blocks as Python holds them: opaque, with their size.
template <class Block>
struct Held {
  Block block;
  int64_t n_bytes = 0;
};

// The blocks of all passes, in order: their matrices are shared with the objects that they were given in.
struct Linked {
  Passes passes;
};

// A state and the array over its delta, made once a call.
struct PyState {
  State state;
  nb::object delta;
};

void set_error(const char* name, const char* message) {
  PyObject* errors = PyImport_ImportModule("ingle.errors");
  PyObject* type = errors ? PyObject_GetAttrString(errors, name) : nullptr;
  if (type) PyErr_SetString(type, message);  // otherwise the failed import is the error
  Py_XDECREF(type);
  Py_XDECREF(errors);
}

// C++ errors become those of ingle.errors. What this does not catch, nanobind translates.
void translate(const std::exception_ptr& error, void*) {
  try {
    std::rethrow_exception(error);
  } catch (const BackendError& e) {
    set_error("BackendError", e.what());
  } catch (const UnsupportedError& e) {
    set_error("UnsupportedError", e.what());
  } catch (const MemoryLimitError& e) {
    set_error("MemoryLimitError", e.what());
  } catch (const std::system_error& e) {
    errno = e.code().value();
    PyErr_SetFromErrno(PyExc_OSError);
  } catch (const std::bad_alloc&) {
    set_error("MemoryLimitError",
              "The system has no memory left for this; close other programs or load a smaller model.");
  }
}

// Part of an open file. Read and not mapped: a file that has become shorter, or a disk that fails, is then an error and
// no signal, and what was read does not stay in this process's memory. Throws std::system_error.
class SourceInFile final : public Source {
 public:
  SourceInFile(int file, int64_t begin) : file_(file), begin_(begin) {}
  const uint8_t* read(size_t offset, size_t n, uint8_t* room) const override {
    for (size_t done = 0; done < n;) {
      const ssize_t got = ::pread(file_, room + done, n - done, static_cast<off_t>(offset + done) + begin_);
      if (got > 0) done += static_cast<size_t>(got);
      if (got == 0) throw std::system_error(ENODATA, std::generic_category());
      if (got < 0 && errno != EINTR) throw std::system_error(errno, std::generic_category());
    }
    return room;
  }

 private:
  int file_;
  int64_t begin_;
};

// The array keeps `owner` alive; no copy.
template <class T>
FloatMatrix array_over(float* data, int64_t rows, int64_t columns, T* owner) {
  const nb::capsule keeper(owner, [](void* p) noexcept { delete static_cast<T*>(p); });
  return FloatMatrix(data, {static_cast<size_t>(rows), static_cast<size_t>(columns)}, keeper);
}

KVType kv_type(const std::string& name) {
  const char* const names[] = {"f32", "f16", "q8", "q4"};  // in the order of KVType
  for (int i = 0; i < 4; ++i)
    if (name == names[i]) return static_cast<KVType>(i);
  throw BackendError("Expected a type of KV cache: f32, f16, q8 or q4; came \"" + name + "\".");
}

template <class T>
T one_of(const std::string& name, std::initializer_list<std::pair<const char*, T>> choices) {
  for (const auto& [known, value] : choices)
    if (name == known) return value;
  throw UnsupportedError("The native core does not know \"" + name + "\".");
}

PyState embed(Decoder& decoder, const Held<Embedding>* block, std::optional<In<int32_t, 1>> tokens,
              std::optional<In<float, 2>> hidden, const In<int32_t, 1>& slots, const In<int32_t, 1>& positions,
              std::shared_ptr<Cache> cache) {
  const size_t n = slots.size();
  if (positions.size() != n) throw BackendError("Expected one position for each slot.");
  if (tokens && tokens->size() != n) throw BackendError("Expected one token for each slot.");
  const auto width = static_cast<size_t>(decoder.spec().n_embd);
  if (hidden && (hidden->shape(0) != n || hidden->shape(1) != width))
    throw BackendError("Expected one hidden state of " + std::to_string(width) + " values for each slot.");
  State state;
  {
    const nb::gil_scoped_release release;
    const Embedding none;  // a worker has no tokens and needs no embedding
    state = decoder.embed(block ? block->block : none, tokens ? tokens->data() : nullptr, hidden ? hidden->data() : nullptr,
                          slots.data(), positions.data(), static_cast<int64_t>(n), std::move(cache));
  }
  float* delta = state.delta->data();
  auto array = array_over(delta, state.n_rows, decoder.spec().n_embd, new std::shared_ptr<Buffer>(state.delta));
  return {std::move(state), nb::cast(array)};
}

FloatMatrix logits(Decoder& decoder, const Held<Output>& block, const PyState& state, const In<int32_t, 1>& wanted) {
  const auto n = static_cast<int64_t>(wanted.size());
  const int64_t width = block.block.linear.matrix->n;
  auto out = std::make_unique<Buffer>();
  float* data = out->reserve(std::max<int64_t>(1, n * width));
  {
    const nb::gil_scoped_release release;
    decoder.logits(block.block, state.state, wanted.data(), n, data);
  }
  return array_over(data, n, width, out.release());
}

// One contiguous part of the rows for each thread; rows are independent.
void quantize_on_threads(int type, const In<float, 2>& x,
                         const nb::ndarray<uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>& out, int threads) {
  const auto n = static_cast<int64_t>(x.shape(0)), k = static_cast<int64_t>(x.shape(1));
  if (threads < 1 || threads > 1024) throw BackendError("Expected 1 to 1024 threads.");
  size_t row_bytes = 0;
  try {
    row_bytes = ggml_row_bytes(type, k);
  } catch (const std::invalid_argument& error) {
    throw BackendError(error.what());
  }
  if (static_cast<int64_t>(out.shape(0)) != n || out.shape(1) != row_bytes)
    throw BackendError("Expected room for " + std::to_string(n) + " rows of " + std::to_string(row_bytes) + " bytes.");
  std::atomic<bool> sound{true};
  const float* from = x.data();
  uint8_t* to = out.data();
  const nb::gil_scoped_release release;
  Team team(threads);
  team.run([&](int thread, int n_threads) {
    const Share rows(n, thread, n_threads);
    if (!quantize_rows(type, from + rows.begin * k, rows.end - rows.begin, k, to + rows.begin * static_cast<int64_t>(row_bytes)))
      sound = false;
  });
  if (!sound) throw BackendError("The native quantiser does not make tensors of type " + std::to_string(type) + ".");
}

nb::tuple draw(const In<float, 1>& logits, const In<int32_t, 1>& history, double repeat_penalty, int64_t top_k,
               double top_p, double min_p, double temperature, double uniform) {
  Drawn drawn{};
  {
    const nb::gil_scoped_release release;
    drawn = sample(logits.data(), static_cast<int64_t>(logits.size()), history.data(),
                   static_cast<int64_t>(history.size()), {repeat_penalty, top_k, top_p, min_p, temperature, uniform});
  }
  return nb::make_tuple(drawn.token, drawn.logprob);
}

void bind_spec(nb::module_& m) {
  nb::class_<Spec>(m, "Spec", "What a decoder is; see ingle.models.spec.")
      .def(nb::init<>())
      .def_rw("n_vocab", &Spec::n_vocab)
      .def_rw("n_embd", &Spec::n_embd)
      .def_rw("n_ff", &Spec::n_ff)
      .def_rw("n_heads", &Spec::n_heads)
      .def_rw("n_kv_heads", &Spec::n_kv_heads)
      .def_rw("head_dim", &Spec::head_dim)
      .def_rw("norm_eps", &Spec::norm_eps)
      .def_rw("gated", &Spec::gated)
      .def_rw("parallel", &Spec::parallel)
      .def_rw("post_norm", &Spec::post_norm)
      .def_rw("qk_norm", &Spec::qk_norm)
      .def_rw("score_scale", &Spec::score_scale)
      .def_rw("attention_softcap", &Spec::attention_softcap)
      .def_rw("alibi_slopes", &Spec::alibi_slopes)
      .def_rw("embed_scale", &Spec::embed_scale)
      .def_rw("logit_scale", &Spec::logit_scale)
      .def_rw("logit_softcap", &Spec::logit_softcap)
      .def("set_norm",
           [](Spec& spec, const std::string& name) {
             spec.norm = one_of<NormKind>(name, {{"rms", NormKind::kRms}, {"layer", NormKind::kLayer}});
           })
      .def("set_activation",
           [](Spec& spec, const std::string& name) {
             spec.activation = one_of<Activation>(name, {{"silu", Activation::kSilu},
                                                         {"gelu", Activation::kGelu},
                                                         {"gelu_tanh", Activation::kGeluTanh},
                                                         {"relu", Activation::kRelu},
                                                         {"relu2", Activation::kRelu2}});
           })
      .def("set_experts", [](Spec& spec, int64_t n_experts, int64_t n_used, int64_t n_ff,
                             bool normalised) { spec.experts = {n_experts, n_used, n_ff, normalised}; })
      .def(
          "add_rope",
          [](Spec& spec, const std::string& style, std::vector<double> frequencies, double magnitude) {
            const bool half = one_of<bool>(style, {{"half", true}, {"interleaved", false}});
            spec.ropes.push_back({half, magnitude, std::move(frequencies)});
            return static_cast<int>(spec.ropes.size()) - 1;
          },
          "style"_a, "frequencies"_a, "magnitude"_a, "The index to give to add_pass.")
      .def(
          "add_pass", [](Spec& spec, int64_t window, int rope) { spec.passes.push_back({window, rope}); }, "window"_a,
          "rope"_a, "window 0 = everything; rope -1 = none.");
}

template <class Block>
void bind_block(nb::module_& m, const char* name) {
  nb::class_<Held<Block>>(m, name).def_ro("n_bytes", &Held<Block>::n_bytes, "Bytes of its tensors in memory.");
}

void bind_weights(nb::module_& m) {
  nb::class_<Weights>(m, "Weights", "Loaded tensors by role.")
      .def(nb::init<>())
      .def(
          "add_matrix",
          [](Weights& weights, Decoder& decoder, const std::string& role, int type, int64_t n, int64_t k,
             const In<uint8_t, 1>& data) {
            const SourceInMemory source(data.data());
            const size_t n_bytes = data.size();
            const nb::gil_scoped_release release;
            weights.matrices[role] = decoder.load_matrix(type, n, k, source, n_bytes);
          },
          "decoder"_a, "role"_a, "type_id"_a, "n"_a, "k"_a, "data"_a.noconvert())
      .def(
          "read_matrix",
          [](Weights& weights, Decoder& decoder, const std::string& role, int type, int64_t n, int64_t k, int file,
             int64_t offset, size_t n_bytes) {
            const nb::gil_scoped_release release;
            weights.matrices[role] = decoder.load_matrix(type, n, k, SourceInFile(file, offset), n_bytes);
          },
          "decoder"_a, "role"_a, "type_id"_a, "n"_a, "k"_a, "file"_a, "offset"_a, "n_bytes"_a,
          "The matrix from an open file, by its descriptor. OSError where it cannot be read, or ends before n_bytes.")
      .def(
          "add_reading",
          [](Weights& weights, const std::string& role, const Reading& reading) {
            weights.matrices[role] = reading.matrix();
          },
          "role"_a, "reading"_a, "The matrix of a reading that is done, where it lies.")
      .def(
          "add_rows",
          [](Weights& weights, const std::string& role, int type, int64_t n, int64_t k, std::shared_ptr<DirectFile> file,
             int64_t offset,
             size_t n_bytes) { weights.matrices[role] = rows_in_file({type, n, k, std::move(file), offset, n_bytes}); },
          "role"_a, "type_id"_a, "n"_a, "k"_a, "file"_a, "offset"_a, "n_bytes"_a,
          "A matrix for its rows alone, as an embedding needs it: each is read when it is asked for.")
      .def(
          "share_weight",
          [](Weights& weights, const Held<Embedding>& embedding) { weights.matrices["weight"] = embedding.block.weight; },
          "embedding"_a, "Use the embedding's matrix as `weight`.")
      .def(
          "add_vector",
          [](Weights& weights, const std::string& role, const In<float, 1>& values) {
            weights.vectors[role] = Floats(values.data(), values.data() + values.size());
          },
          "role"_a, "values"_a.noconvert());
  bind_block<Embedding>(m, "Embedding");
  bind_block<AttentionBlock>(m, "AttentionBlock");
  bind_block<FeedForwardBlock>(m, "FeedForwardBlock");
  bind_block<MixtureShell>(m, "MixtureShell");
  bind_block<FeedForward>(m, "Expert");
  bind_block<Output>(m, "Output");
}

template <class Block, Block (*make)(const Spec&, Weights)>
Held<Block> hold(const Decoder& decoder, const Weights& weights) {
  return {make(decoder.spec(), weights), bytes_of(weights)};
}

void bind_decoder(nb::module_& m) {
  const auto released = nb::call_guard<nb::gil_scoped_release>();
  nb::class_<Cache>(m, "Cache")
      .def_prop_ro("n_slots", &Cache::n_slots)
      .def_prop_ro("context", &Cache::context)
      .def_prop_ro("n_bytes", &Cache::bytes)
      .def("copy", &Cache::copy, released, "source"_a, "target"_a, "n_positions"_a);
  nb::class_<PyState>(m, "State")
      .def_ro("delta", &PyState::delta, "float32 [N, E], no copy")
      .def_prop_ro("n_rows", [](const PyState& state) { return state.state.n_rows; });
  nb::class_<Linked>(m, "Linked", "The blocks of all passes, in order.")
      .def(nb::init<>())
      .def(
          "add_pass",
          [](Linked& linked, const Held<AttentionBlock>& attention, const Held<FeedForwardBlock>& feed_forward) {
            linked.passes.emplace_back(attention.block, feed_forward.block);
          },
          "attention"_a, "feed_forward"_a);
  nb::class_<Decoder>(m, "Decoder", "The four verbs; see native/src/decoder.h.")
      .def(nb::init<Spec, int>(), "spec"_a, "threads"_a)
      .def_prop_ro("n_threads", &Decoder::n_threads)
      .def("make_embedding", &hold<Embedding, make_embedding>, "weights"_a)
      .def("make_attention", &hold<AttentionBlock, make_attention_block>, "weights"_a)
      .def("make_feed_forward", &hold<FeedForwardBlock, make_feed_forward_block>, "weights"_a)
      .def("make_mixture_shell", &hold<MixtureShell, make_mixture_shell>, "weights"_a)
      .def("make_expert", &hold<FeedForward, make_expert>, "weights"_a)
      .def(
          "make_output",
          [](const Decoder& decoder, const Weights& weights, int64_t n_rows) {
            return Held<Output>{make_output(decoder.spec(), weights, n_rows), bytes_of(weights)};
          },
          "weights"_a, "n_rows"_a, "n_rows: all of the vocabulary, or those of a slice.")
      .def(
          "cache_bytes",
          [](const Decoder& decoder, int64_t n_slots, int64_t context, const std::string& type) {
            return Cache::bytes_needed(decoder.spec(), n_slots, context, kv_type(type));
          },
          "n_slots"_a, "context"_a, "kv_type"_a, "Bytes that such a cache takes when it is full.")
      .def(
          "new_cache",
          [](const Decoder& decoder, int64_t n_slots, int64_t context, const std::string& type) {
            return std::make_shared<Cache>(decoder.spec(), n_slots, context, kv_type(type));
          },
          "n_slots"_a, "context"_a, "kv_type"_a)
      .def("embed", &embed, "embedding"_a.none(), "tokens"_a.noconvert().none(), "hidden"_a.noconvert().none(),
           "slots"_a.noconvert(), "positions"_a.noconvert(), "cache"_a)
      .def(
          "attention",
          [](Decoder& decoder, const Held<AttentionBlock>& block, const PyState& state, int64_t pass) {
            decoder.attention(block.block, state.state, pass);
          },
          released, "block"_a, "state"_a, "pass_index"_a)
      .def(
          "feed_forward",
          [](Decoder& decoder, const Held<FeedForwardBlock>& block, const PyState& state, int64_t pass) {
            decoder.feed_forward(block.block, state.state, pass);
          },
          released, "block"_a, "state"_a, "pass_index"_a)
      .def(
          "route",
          [](Decoder& decoder, const Held<MixtureShell>& shell, const PyState& state, int64_t pass) {
            return decoder.route(shell.block, state.state, pass);
          },
          released, "shell"_a, "state"_a, "pass_index"_a, "The experts that some row chose, rising.")
      .def(
          "run_expert",
          [](Decoder& decoder, const Held<FeedForward>& expert, const PyState& state, int64_t number) {
            decoder.run_expert(expert.block, state.state, number);
          },
          released, "expert"_a, "state"_a, "number"_a, "Each of what `route` gave, in that order.")
      .def(
          "run_linked",
          [](Decoder& decoder, const Linked& linked, const PyState& state) {
            decoder.run_passes(linked.passes, state.state);
          },
          released, "linked"_a, "state"_a, "Both verbs of every pass, in one call.")
      .def("logits", &logits, "output"_a, "state"_a, "wanted"_a.noconvert());
}

NB_MODULE(_core, m) {
  nb::register_exception_translator(translate);
  bind_spec(m);
  bind_weights(m);
  bind_decoder(m);
  bind_kernels(m);
  bind_stream(m);
  m.def("quantize_rows", &quantize_on_threads, "type_id"_a, "x"_a.noconvert(), "out"_a.noconvert(), "threads"_a = 1,
        "Quantise float32 [n, k] into uint8 [n, bytes of a row]: Q2_K to Q6_K and IQ4_NL, by GGML type number.");
  m.def("sample", &draw, "logits"_a.noconvert(), "history"_a.noconvert(), "repeat_penalty"_a, "top_k"_a, "top_p"_a,
        "min_p"_a, "temperature"_a, "uniform"_a,
        "Draw a token from float32 logits [V]; (token id, log-probability). sample.h defines the draw.");
}

}  // namespace
}  // namespace ingle
