// The four verbs over rows: embed, attention, feed_forward, logits. This header is the manual of the native core.
//
// Python (or another host) makes a Decoder from a Spec, loads matrices into it, gathers them into blocks, and calls the
// verbs in the order that ingle.backends.base describes. Between the calls everything stays here: the residual x, the
// last block's output delta, the rows' places in the cache, the turned angles. What crosses the border at a verb is a
// few pointers, so that a call costs microseconds.
//
// A verb is one region of the team. Inside it, threads meet at barriers: (join delta, norm, prepare) | matrices | what
// stands between matrices | prepare | last matrix. A single row, the step that waits for nothing but memory, is joined,
// normed and prepared by every thread for itself: that is cheaper than to meet. Work is cut by rows, heads or outputs
// and every sum has a fixed order: results do not depend on the number of threads.
//
// Memory: matrices are shared and immutable after loading. Intermediate results live in buffers that grow to the
// largest call and stay. One verb runs at a time (a mutex sees to it); loading may go on beside it.
#pragma once
#include <atomic>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "arena.h"
#include "blocks.h"
#include "buffer.h"
#include "cache.h"
#include "linear.h"
#include "spec.h"
#include "threads.h"
#include "vector_ops.h"

namespace ingle {

// The rows of one call, as seen from outside. Valid until the next embed() of its decoder.
struct State {
  uint64_t id = 0;
  int64_t n_rows = 0;
  std::shared_ptr<Buffer> delta;  // [n_rows, E]
};

// Where each row stands, and what follows from it for all passes.
struct RowPlan {
  std::shared_ptr<Cache> cache;
  std::vector<int32_t> slots, positions;
  struct Tile {
    int64_t row, n_rows;  // consecutive rows of one slot
  };
  std::vector<Tile> tiles;
  int64_t heads_of_item = 1;  // query heads that one thread attends to at a time
  bool apart = false;         // no row reads another's keys of this call, and an item has all queries of its head
  std::vector<Buffer> cosines, sines;  // for each rope of the spec: [N, pairs]
};

using Passes = std::vector<std::pair<AttentionBlock, FeedForwardBlock>>;

// Whether delta has still to join x, and how it is normed first where the family wants that.
struct Pending {
  bool any = false;
  const Norm* norm = nullptr;
};

class Decoder {
 public:
  // Throws BackendError for a spec that contradicts itself or a number of threads outside 1..1024.
  Decoder(Spec spec, int n_threads);

  const Spec& spec() const { return spec_; }
  int n_threads() const { return team_.size(); }

  // A matrix from n rows of k values in the GGML layout, n_bytes in all. Threads of the team help unless a verb runs.
  // What the source throws goes through.
  // Throws UnsupportedError for an unknown type or a k that is no multiple of its block, BackendError for another size.
  SharedMatrix load_matrix(int ggml_type, int64_t n, int64_t k, const Source& source, size_t n_bytes);

  // Exactly one of tokens [n] and hidden [n, E] is not nullptr. Throws BackendError unless slots and positions are as
  // ingle.backends.base.Rows says and within the cache.
  State embed(const Embedding& block, const int32_t* tokens, const float* hidden, const int32_t* slots,
              const int32_t* positions, int64_t n, std::shared_ptr<Cache> cache);
  // These throw BackendError for a state that is not the last embed's, or a pass or row that does not exist, or a block
  // of another model.
  void attention(const AttentionBlock& block, const State& state, int64_t pass);
  void feed_forward(const FeedForwardBlock& block, const State& state, int64_t pass);
  // A mixture whose experts come one by one: the router says which of them some row chose, in rising order. Then each of
  // these follows, in that order, before any other verb.
  std::vector<int64_t> route(const MixtureShell& shell, const State& state, int64_t pass);
  void run_expert(const FeedForward& expert, const State& state, int64_t number);
  // out [n_wanted, rows of the output]. Of an output in slices, one after the other in one state: the first call joins.
  void logits(const Output& block, const State& state, const int32_t* wanted, int64_t n_wanted, float* out);
  // Both verbs of every pass. A single row takes one region for all of them.
  void run_passes(const Passes& passes, const State& state);

 private:
  void check(const State& state, int64_t pass) const;
  void check(const AttentionBlock& block) const;
  void check(const FeedForwardBlock& block) const;
  void plan_rows(const int32_t* slots, const int32_t* positions, int64_t n, std::shared_ptr<Cache> cache);
  void plan_turns(int64_t row);
  void check(const FeedForward& network) const;
  void check(const MixtureShell& shell) const;
  void route_rows(const MixtureShell& shell);
  void run_next_expert(const FeedForward& expert);
  void keep_pending(const std::shared_ptr<const Norm>& norm);

  int64_t ff_width() const { return spec_.experts.n_experts > 0 ? spec_.experts.n_ff : spec_.n_ff; }
  // One row that every thread prepares for itself.
  bool alone() const { return n_ == 1 && spec_.experts.n_experts == 0; }
  using Readers = std::initializer_list<const Linear*>;
  // Before a region: room for the inputs of `readers`, unless each thread has its own.
  void reserve_inputs(const Readers& readers, int64_t k, int64_t n);
  void reserve_inner(const Linear& reader, int64_t k, int64_t n);
  void reserve_attention(const AttentionBlock& block);
  void reserve_feed_forward(const FeedForwardBlock& block);

  // Inside a region: a block, without a barrier at its end.
  void attention_part(const AttentionBlock& block, Pending pending, int64_t pass, int thread, int n_threads);
  void feed_forward_part(const FeedForwardBlock& block, Pending pending, int thread, int n_threads);
  void router_part(const MixtureShell& shell, Pending pending, int thread, int n_threads);

  // Inside a region. These two end with the input ready for all threads.
  const Input& normed_input(const Norm& weights, Pending pending, const Readers& readers, int thread, int n_threads);
  const Input& inner_input(const float* x, int64_t k, const Linear& reader, int thread, int n_threads);
  void keep_joined(int thread);
  void join(float* x, float* delta, const Norm* post_norm) const;
  void norm(const Norm& weights, const float* x, float* y) const;
  void multiply(const Linear& w, const Input& in, int64_t n, float* y, int64_t ldy, bool add, int thread,
                int n_threads) const;
  void turn_and_store(const AttentionBlock& block, int64_t pass, int64_t row, int64_t begin, int64_t end);
  void attend(const AttentionBlock& block, int64_t pass, int thread);
  void run_feed_forward(const FeedForward& ff, const Input& in, int64_t n, int64_t width, float* y, bool add, int thread,
                        int n_threads);

  const Spec spec_;
  const VectorOps& ops_;
  Team team_;
  std::mutex mutex_;
  std::mutex arena_mutex_;  // loading may go on beside a verb
  Arena arena_;

  uint64_t id_ = 0;  // of the current state; ids are never used twice in a process
  int64_t n_ = 0;    // rows of the current state
  RowPlan plan_;
  std::shared_ptr<Buffer> delta_buffer_;
  float* x_ = nullptr;      // [N, E]
  float* delta_ = nullptr;  // [N, E]
  Pending pending_;
  std::shared_ptr<const Norm> pending_norm_;  // keeps that of pending_

  // Of a mixture: the rows that chose each expert, and the weights they gave it. Those before next_group_ are done.
  struct Group {
    int64_t expert;
    std::vector<int64_t> rows;
    std::vector<float> weights;
  };
  std::vector<Group> groups_;
  size_t next_group_ = 0;

  Input input_, inner_input_;
  Buffer x_buffer_, normed_, q_, k_, v_, heads_, gate_, up_, gathered_, expert_out_, scores_;
  // What each thread has for itself: a single row (x after the join, if there was one), and scratch of attention.
  struct Own {
    Input input, inner;
    Buffer x, normed, scratch;
    bool joined = false;
  };
  std::vector<Own> own_;
  std::atomic<int64_t> next_tile_{0};  // attention tiles are handed out: causal tiles differ in size
};

}  // namespace ingle
