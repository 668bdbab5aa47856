// Attention over a paged cache, for one instruction set: for each page two small matrix products with a running
// softmax between them (Milakov and Gimelshein, arXiv 1805.02867), all of a tile's queries at once.
//
// Pages lie at fixed positions and a query's order of additions depends on nothing but its own position: results are
// the same bit for bit however rows are grouped into calls, tiles and threads.
#pragma once
#include "vector_math.h"
#include "vector_ops.h"

namespace ingle::INGLE_VECTOR_NAMESPACE {

// Accumulators of the product below: kRows x kVectors registers, a few less than there are.
constexpr int kRows = 4;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kVectors = 4;
#else
constexpr int kVectors = 2;
#endif
constexpr int kVectorsOfOneRow = kWidth == 16 ? 4 : 8;

// c[R, NV vectors] (+)= a[R, k] b[k, NV vectors]
template <int R, int NV, class T>
INGLE_INLINE void product_block(const float* a, int64_t lda, const T* b, int64_t ldb, float* c, int64_t ldc, int64_t k,
                                bool accumulate) {
  vf s[R][NV];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) s[r][v] = accumulate ? load(c + r * ldc + v * kWidth) : vf{};
  for (int64_t i = 0; i < k; ++i) {
    vf column[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) column[v] = load(b + i * ldb + v * kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const vf factor = all(a[r * lda + i]);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) s[r][v] += factor * column[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) store(c + r * ldc + v * kWidth, s[r][v]);
}

template <int R, class T>
INGLE_INLINE void product_rows(const float* a, int64_t lda, const T* b, int64_t ldb, float* c, int64_t ldc, int64_t k,
                               int64_t n, bool accumulate) {
  constexpr int kMany = R == 1 ? kVectorsOfOneRow : kVectors;
  int64_t j = 0;
  for (; j + kMany * kWidth <= n; j += kMany * kWidth)
    product_block<R, kMany>(a, lda, b + j, ldb, c + j, ldc, k, accumulate);
  for (; j < n; j += kWidth) product_block<R, 1>(a, lda, b + j, ldb, c + j, ldc, k, accumulate);
}

// c[m, n] (+)= a[m, k] b[k, n]; n is a multiple of kDimPad, rows of a step by lda and so on.
template <class T>
static void product(const float* a, int64_t lda, const T* b, int64_t ldb, float* c, int64_t ldc, int64_t m, int64_t k,
                    int64_t n, bool accumulate) {
  for (; m >= kRows; m -= kRows, a += kRows * lda, c += kRows * ldc)
    product_rows<kRows>(a, lda, b, ldb, c, ldc, k, n, accumulate);
  if (m == 3) product_rows<3>(a, lda, b, ldb, c, ldc, k, n, accumulate);
  if (m == 2) product_rows<2>(a, lda, b, ldb, c, ldc, k, n, accumulate);
  if (m == 1) product_rows<1>(a, lda, b, ldb, c, ldc, k, n, accumulate);
}

// One query's running softmax.
struct Running {
  float max, total;
};

// Scores of one page become weights, in place; `out` [n_out] is the sum so far and shrinks when a larger score comes.
// The query sees positions [first, last) of the page; it stands itself at `own` (all relative to the page).
template <bool kPlain>  // no bias, no cap, and the whole page is seen
INGLE_INLINE void weigh(const AttentionTile& tile, float slope, int64_t first, int64_t own, float* scores,
                        Running& running, float* out, int64_t n_out) {
  constexpr int kSteps = kPage / kWidth;
  constexpr float kNever = -3e38f;
  vf s[kSteps];
#pragma GCC unroll 16
  for (int i = 0; i < kSteps; ++i) s[i] = load(scores + i * kWidth);
  if constexpr (!kPlain) {
    const vi low = static_cast<int32_t>(first) - vi{}, high = static_cast<int32_t>(own) - vi{};
    vi at{};
    for (int i = 0; i < kWidth; ++i) at[i] = i;
#pragma GCC unroll 16
    for (int i = 0; i < kSteps; ++i, at += kWidth) {
      if (slope != 0) s[i] += __builtin_convertvector(at - high, vf) * slope;
      if (tile.softcap > 0) s[i] = tanh(s[i] / tile.softcap) * tile.softcap;
      s[i] = select((at >= low) & (at <= high), s[i], all(kNever));
    }
  }
  vf largest = s[0];
#pragma GCC unroll 16
  for (int i = 1; i < kSteps; ++i) largest = max(largest, s[i]);
  const float page_max = max(largest);
  if (page_max > running.max) {
    const float shrink = exp_up_to_88(all(running.max - page_max))[0];
    running.max = page_max;
    running.total *= shrink;
    for (int64_t i = 0; i < n_out; i += kWidth) store(out + i, load(out + i) * shrink);
  }
  vf total{};
#pragma GCC unroll 16
  for (int i = 0; i < kSteps; ++i) {
    s[i] = exp_up_to_88(s[i] - running.max);
    total += s[i];
    store(scores + i * kWidth, s[i]);
  }
  running.total += sum(total);
}

// Numbers for several queries are converted once; one to four queries convert as they read.
constexpr int64_t kDirectQueries = 4;
INGLE_INLINE const float* as_floats(const float* page, float*, int64_t) { return page; }
INGLE_INLINE const float* as_floats(const f16* page, float* buffer, int64_t n) {
  for (int64_t i = 0; i < n; i += kWidth) store(buffer + i, load(page + i));
  return buffer;
}

template <class T>
static void attend_as(const AttentionTile& tile) {
  const int64_t dim = tile.head_dim, n_out = padded_dim(dim), n_queries = tile.n_rows * tile.n_heads;
  float* queries = tile.scratch;
  float* scores = queries + kTileQueries * padded_dim(dim);
  float* out = scores + kTileQueries * kPage;
  float* key_page = out + kTileQueries * n_out;
  float* value_page = key_page + kPage * padded_dim(dim);
  Running running[kTileQueries];
  for (int64_t i = 0; i < n_queries; ++i) {
    const float* q = tile.q + i / tile.n_heads * tile.q_stride + i % tile.n_heads * dim;
    for (int64_t d = 0; d < dim; ++d) queries[i * dim + d] = q[d] * tile.scale;
    for (int64_t d = 0; d < n_out; ++d) out[i * n_out + d] = 0;
    running[i] = {-3e38f, 0};
  }
  const int64_t end = tile.position + tile.n_rows;
  const int64_t start = tile.window > 0 && tile.position >= tile.window ? tile.position - tile.window + 1 : 0;
  for (int64_t page = start / kPage; page * kPage < end; ++page) {
    const int64_t base = page * kPage, n_positions = end - base < kPage ? end - base : kPage;
    const T* keys = static_cast<const T*>(tile.keys) + page * dim * kPage;
    const T* values = static_cast<const T*>(tile.values) + page * kPage * n_out;
    const bool direct = n_queries <= kDirectQueries;
    if (direct)
      product(queries, dim, keys, kPage, scores, kPage, n_queries, dim, kPage, false);
    else
      product(queries, dim, as_floats(keys, key_page, dim * kPage), kPage, scores, kPage, n_queries, dim, kPage, false);
    for (int64_t i = 0; i < n_queries; ++i) {
      const int64_t own = tile.position + i / tile.n_heads - base;
      const int64_t first = tile.window > 0 ? own - tile.window + 1 : 0;
      const float slope = tile.slopes ? tile.slopes[i % tile.n_heads] : 0;
      float* page_scores = scores + i * kPage;
      if (own < 0 || first >= kPage)  // sees nothing of this page
        for (int j = 0; j < kPage; ++j) page_scores[j] = 0;
      else if (first <= 0 && own >= kPage - 1 && slope == 0 && tile.softcap <= 0)
        weigh<true>(tile, slope, first, own, page_scores, running[i], out + i * n_out, n_out);
      else
        weigh<false>(tile, slope, first, own, page_scores, running[i], out + i * n_out, n_out);
    }
    if (direct)
      product(scores, kPage, values, n_out, out, n_out, n_queries, n_positions, n_out, true);
    else
      product(scores, kPage, as_floats(values, value_page, n_positions * n_out), n_out, out, n_out, n_queries,
              n_positions, n_out, true);
  }
  for (int64_t i = 0; i < n_queries; ++i) {
    float* y = tile.out + i / tile.n_heads * tile.q_stride + i % tile.n_heads * dim;
    for (int64_t d = 0; d < dim; ++d) y[d] = out[i * n_out + d] / running[i].total;
  }
}

static void attend(KVType type, const AttentionTile& tile) {
  if (type == KVType::kF16)
    attend_as<f16>(tile);
  else
    attend_as<float>(tile);
}

template <class T>
INGLE_INLINE void store_as(const float* k, const float* v, T* keys, T* values, int64_t position, int64_t dim) {
  const int64_t page = position / kPage, within = position % kPage, padded = padded_dim(dim);
  T* key = keys + page * dim * kPage + within;
  T* value = values + (page * kPage + within) * padded;
  int64_t d = 0;
  for (; d + kWidth <= dim; d += kWidth) {
    T lanes[kWidth];
    store(lanes, load(k + d));
    for (int i = 0; i < kWidth; ++i) key[(d + i) * kPage] = lanes[i];
    store(value + d, load(v + d));
  }
  for (; d < dim; ++d) {
    convert(k[d], key + d * kPage);
    convert(v[d], value + d);
  }
}

static void store_position(KVType type, const float* k, const float* v, void* keys, void* values, int64_t position,
                           int64_t dim) {
  if (type == KVType::kF16)
    store_as(k, v, static_cast<f16*>(keys), static_cast<f16*>(values), position, dim);
  else
    store_as(k, v, static_cast<float*>(keys), static_cast<float*>(values), position, dim);
}

}  // namespace ingle::INGLE_VECTOR_NAMESPACE
