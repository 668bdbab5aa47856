// Everything between two matrix products, as a table of functions compiled once per instruction set.
//
// The functions are written once (vector_impl.h, attention_impl.h) with vectors as wide as the flags of the including
// file allow. All of them are single-threaded and write only what they are given; float in, float out.
#pragma once
#include <cstdint>

namespace ingle {

enum class NormKind { kRms, kLayer };
enum class Activation { kSilu, kGelu, kGeluTanh, kRelu, kRelu2 };
// How the cache keeps numbers. The last two: codes of 8 or 4 bits with one scale (f16) for kKVGroup numbers of a head of one
// position, rounded as ggml's Q8_0 and Q4_0; the last group of a head may be smaller.
enum class KVType { kF32, kF16, kQ8, kQ4 };

// Positions stand in pages. A page has keys as [D][kPage] (transposed: scores of kPage positions are computed side by
// side), then values as [kPage][padded_dim(D)]. Of codes, the scales follow: [groups][kPage] and [kPage][groups]. Codes of
// 4 bits share a byte with those of 16 dimensions on, in the same group.
constexpr int64_t kPage = 64;
constexpr int64_t kKVGroup = 32;
constexpr int64_t kDimPad = 16;
constexpr int64_t padded_dim(int64_t head_dim) { return (head_dim + kDimPad - 1) / kDimPad * kDimPad; }
constexpr int64_t kv_groups(int64_t head_dim) { return (head_dim + kKVGroup - 1) / kKVGroup; }
constexpr int64_t code_bytes(KVType type, int64_t head_dim) {
  const int64_t rest = head_dim % kKVGroup;
  return type == KVType::kQ8 ? head_dim : head_dim / kKVGroup * 16 + (rest < 16 ? rest : 16);
}
constexpr int64_t key_page_bytes(KVType type, int64_t head_dim) {
  if (type <= KVType::kF16) return kPage * head_dim * (type == KVType::kF16 ? 2 : 4);
  return kPage * (code_bytes(type, head_dim) + 2 * kv_groups(head_dim));
}
constexpr int64_t value_page_bytes(KVType type, int64_t head_dim) { return key_page_bytes(type, padded_dim(head_dim)); }

// A tile of attention: consecutive rows of one slot, times some query heads that share one key/value head.
constexpr int64_t kTileQueries = 256;
struct AttentionTile {
  const float* q;        // query of row r, head h at q[r * q_stride + h * D]; already normed and rotated
  float* out;            // the same layout
  int64_t q_stride;
  int64_t n_rows, n_heads;  // n_rows * n_heads <= kTileQueries
  bool many;             // matrix tiles may be used; must not depend on how rows and heads are cut into tiles
  int64_t head_dim;
  const uint8_t* pages;  // the first page of this slot and key/value head
  int64_t page_stride;   // bytes from one of its pages to the next
  const uint8_t* next = nullptr;  // what is likely to be read after its last page
  int64_t position;      // of row 0
  int64_t window;        // 0 = everything
  float scale, softcap;  // softcap 0 = none
  const float* slopes;   // ALiBi, one for each head of the tile; nullptr = none
  float* scratch;        // attention_scratch_floats(D), 64-byte aligned
};
constexpr int64_t attention_scratch_floats(int64_t head_dim) {
  const int64_t wide = (head_dim + 31) / 32 * 32;
  return kTileQueries * (2 * wide + kDimPad + 1) + kPage * (8 * wide + wide / 8 + 32);
}

struct VectorOps {
  // y = norm(x) * weight + bias, over n values; bias may be nullptr; y may be x.
  void (*norm)(NormKind kind, const float* x, const float* weight, const float* bias, float eps, float* y, int64_t n);
  // x += y
  void (*add)(float* x, const float* y, int64_t n);
  // x += factor * y
  void (*add_scaled)(float* x, const float* y, float factor, int64_t n);
  // x *= factor, then cap * tanh(x / cap) where cap > 0
  void (*scale_and_cap)(float* x, float factor, float cap, int64_t n);
  // x = act(x), and times `up` where that is not nullptr
  void (*activate)(Activation kind, float* x, const float* up, int64_t n);
  // Turns pairs of one head in place; cosines and sines are [n_pairs]. half: pair i is (i, i + n_pairs), else (2i, 2i+1).
  void (*rotate)(float* head, const float* cosines, const float* sines, int64_t n_pairs, bool half);
  // Writes key and value of position `within` of a page.
  void (*store)(KVType type, const float* k, const float* v, uint8_t* page, int64_t within, int64_t dim);
  void (*attend)(KVType type, const AttentionTile& tile);
  // Sum of exp((x[i] - max) * scale) in double.
  double (*sum_exp)(const float* x, double max, double scale, int64_t n);
  // out[i] = the largest of x[i * group .. (i + 1) * group) or of what is left; group is a multiple of 16.
  void (*maxima)(const float* x, int64_t n, int64_t group, float* out);
  // Reads n bytes, a multiple of 512, from p on a 64-byte line, as fast as they come: the roof of decode.
  void (*read)(const void* p, int64_t n);
};

// The table for isa_name().
const VectorOps& vector_ops();

}  // namespace ingle
