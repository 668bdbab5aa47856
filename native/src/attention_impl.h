// Attention over a paged cache, for one instruction set: for each page two small matrix products with a running
// softmax between them (Milakov and Gimelshein, arXiv 1805.02867), all of a tile's queries at once.
//
// Scores are kept in units of ln 2, so that weights are powers of two. What is subtracted from a query's scores is a
// largest score so far, renewed when one exceeds it by more than kRise: the sums shrink seldom, and floats lose nothing.
//
// Pages lie at fixed positions and a query's order of additions depends on nothing but its own position: results are
// the same bit for bit however rows are grouped into tiles and threads. With matrix tiles (attention_tiles.h) they
// depend on whether the call has many rows of a slot or few.
#pragma once
#include "vector_math.h"
#include "vector_ops.h"

namespace ingle::INGLE_VECTOR_NAMESPACE {

constexpr float kLog2E = 1.44269504f;
constexpr float kNever = -3e38f;
constexpr float kRise = 8;
constexpr int64_t kBlock = 16;  // queries that go through both products together: their scores stay in the L1 cache

// One page of keys [D][kPage] or of values [kPage][padded D] as it lies in the cache; vectors of floats.
template <class T>
struct Numbers {
  const T* p;
  int64_t width;
  inline __attribute__((always_inline)) vf operator()(int64_t row, int64_t column) const { return load(p + row * width + column); }
};

// Accumulators of the product below: kRows x kVectors registers, a few less than there are.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kRows = 8;
#else
constexpr int kRows = 4;
#endif
constexpr int kVectors = 2;

// c[R, NV vectors] (+)= a[R, k] b[k, NV vectors]
template <int R, int NV, class B>
INGLE_INLINE void product_block(const float* a, int64_t lda, B b, int64_t j, float* c, int64_t ldc, int64_t k,
                                bool accumulate) {
  vf s[R][NV];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) s[r][v] = accumulate ? load(c + r * ldc + j + v * kWidth) : vf{};
  for (int64_t i = 0; i < k; ++i) {
    vf row[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) row[v] = b(i, j + v * kWidth);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const vf factor = all(a[r * lda + i]);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) s[r][v] += factor * row[v];
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) store(c + r * ldc + j + v * kWidth, s[r][v]);
}

template <int R, class B>
INGLE_INLINE void product_rows(const float* a, int64_t lda, B b, float* c, int64_t ldc, int64_t k, int64_t n,
                               bool accumulate) {
  constexpr int kMany = R <= kRows / 2 ? 2 * kVectors : kVectors;
  int64_t j = 0;
  for (; j + kMany * kWidth <= n; j += kMany * kWidth) product_block<R, kMany>(a, lda, b, j, c, ldc, k, accumulate);
  for (; j < n; j += kWidth) product_block<R, 1>(a, lda, b, j, c, ldc, k, accumulate);
}

// The factors of the two products as floats; the second is read as it lies in the cache, each time that it is used.
struct AsStored {
  using Left = float;
  template <class B>
  INGLE_INLINE B prepare(B page, int64_t, int64_t, float*) {
    return page;
  }
  // c[m, n] (+)= a[m, k] b[k, n]; m is at most kBlock, n a multiple of kDimPad. Rows of a step by lda, of c by ldc.
  template <class B>
  static void product(const float* a, int64_t lda, B b, float* c, int64_t ldc, int64_t m, int64_t k, int64_t n,
                      bool accumulate) {
    for (; m >= kRows; m -= kRows, a += kRows * lda, c += kRows * ldc)
      product_rows<kRows>(a, lda, b, c, ldc, k, n, accumulate);
    if (kRows > 4 && m >= 4) {
      product_rows<4>(a, lda, b, c, ldc, k, n, accumulate);
      m -= 4, a += 4 * lda, c += 4 * ldc;
    }
    if (m == 3) product_rows<3>(a, lda, b, c, ldc, k, n, accumulate);
    if (m == 2) product_rows<2>(a, lda, b, c, ldc, k, n, accumulate);
    if (m == 1) product_rows<1>(a, lda, b, c, ldc, k, n, accumulate);
  }
  // The left factors: queries, padded with zeros, and weights of a page (in place of its scores).
  INGLE_INLINE void put(const vf* v, int n, float* to) {
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) store(to + i * kWidth, v[i]);
  }
};

// The same, but the second factor is converted once for all queries of the tile.
struct AsFloats : AsStored {
  template <class B>
  INGLE_INLINE Numbers<float> prepare(B page, int64_t k, int64_t n, float* buffer) {
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = 0; j < n; j += kWidth) store(buffer + i * n + j, page(i, j));
    return {buffer, n};
  }
};

}  // namespace ingle::INGLE_VECTOR_NAMESPACE

#if defined(__AMX_BF16__)
#include "attention_tiles.h"
#endif

namespace ingle::INGLE_VECTOR_NAMESPACE {

// 2^x for x that is not far above 0, to 2e-7 relative; at least 2^-126 without AVX-512. NaN of NaN.
// The part of x below its floor goes through a minimax polynomial.
INGLE_INLINE vf power_of_two(vf x) {
#if defined(__AVX512F__)
  const vf r = reinterpret_cast<vf>(_mm512_maskz_reduce_ps(0xffff, reinterpret_cast<__m512>(x), 9));
#else
  x = max(all(-126.0f), x);
  const vf shifted = (x - 0.5f) + 12582912.0f;  // 1.5 * 2^23: the low bits of the sum are the nearest integer
  const vf r = x - (shifted - 12582912.0f);
#endif
  vf y = r * 0.0018775767f + 0.0089893397f;
  y = y * r + 0.055826318f;
  y = y * r + 0.24015361f;
  y = y * r + 0.69315308f;
  y = y * r + 0.99999994f;
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(_mm512_maskz_scalef_ps(0xffff, reinterpret_cast<__m512>(y), reinterpret_cast<__m512>(x)));
#else
  return y * reinterpret_cast<vf>((reinterpret_cast<vi>(shifted) - (0x4b400000 - 127)) << 23);
#endif
}

INGLE_INLINE bool any_above(vf v, float limit) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(v), _mm512_set1_ps(limit), _CMP_GT_OQ) != 0;
#else
  return max(v) > limit;
#endif
}

// Scores of one query and one page become weights, in place; `out` is the sum so far, `total` that of the weights.
// The query sees positions [first, own] of the page, the last of which is its own.
template <class Factors, bool kPlain>  // plain: no bias, no cap, and the whole page is seen
INGLE_INLINE void weigh(float slope, float softcap, int64_t first, int64_t own, const float* scores,
                        typename Factors::Left* weights, float& largest, float* total, float* out, int64_t n_out) {
  constexpr int kSteps = kPage / kWidth;
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
      if (softcap > 0) s[i] = tanh(s[i] / softcap) * softcap;
      s[i] = select((at >= low) & (at <= high), s[i], all(kNever));
    }
  }
  vf top = s[0];
#pragma GCC unroll 16
  for (int i = 1; i < kSteps; ++i) top = max(top, s[i]);
  vf sum = load(total);
  if (any_above(top, largest + kRise)) {
    const float now = max(top);
    const vf shrink = power_of_two(all(largest - now));
    largest = now;
    sum *= shrink;
    for (int64_t i = 0; i < n_out; i += kWidth) store(out + i, load(out + i) * shrink);
  }
#pragma GCC unroll 16
  for (int i = 0; i < kSteps; ++i) {
    s[i] = power_of_two(s[i] - largest);
    sum += s[i];
  }
  store(total, sum);
  Factors::put(s, kSteps, weights);
}

template <class Factors, class T>
static void attend_as(const AttentionTile& tile) {
  using Left = typename Factors::Left;
  const int64_t dim = tile.head_dim, n_out = padded_dim(dim), width = (dim + 31) / 32 * 32;
  const int64_t n_queries = tile.n_rows * tile.n_heads;
  float* at = tile.scratch;
  const auto take = [&at](int64_t n) { return (at += n) - n; };
  float *out = take(kTileQueries * n_out), *totals = take(kTileQueries * kDimPad), *largest = take(kTileQueries);
  float *scores = take(2 * kBlock * kPage), *key_buffer = take(kPage * width), *value_buffer = take(kPage * n_out);
  Left* weights = reinterpret_cast<Left*>(take(2 * kBlock * kPage));
  Left* queries = reinterpret_cast<Left*>(take(kTileQueries * width));
  for (int64_t i = 0; i < n_queries; ++i) {
    const float* q = tile.q + i / tile.n_heads * tile.q_stride + i % tile.n_heads * dim;
    for (int64_t d = 0; d < width; d += 32) {
      constexpr int kSteps = 32 / kWidth;
      vf v[kSteps] = {};
      __builtin_memcpy(v, q + d, uint64_t(dim - d < 32 ? dim - d : 32) * sizeof(float));
      for (int j = 0; j < kSteps; ++j) v[j] *= tile.scale * kLog2E;
      Factors::put(v, kSteps, queries + i * width + d);
    }
    largest[i] = kNever;
  }
  __builtin_memset(out, 0, uint64_t(n_queries * n_out) * sizeof(float));
  __builtin_memset(totals, 0, uint64_t(n_queries * kDimPad) * sizeof(float));

  const int64_t end = tile.position + tile.n_rows, window = tile.window > 0 ? tile.window : end;
  const int64_t start = tile.position >= window ? tile.position - window + 1 : 0;
  for (int64_t page = start / kPage; page * kPage < end; ++page) {
    const int64_t position = tile.position - page * kPage;  // of row 0, from the page's beginning
    const int64_t n_positions = end - page * kPage < kPage ? end - page * kPage : kPage;
    const auto keys = Factors::prepare(Numbers<T>{static_cast<const T*>(tile.keys) + page * dim * kPage, kPage}, dim,
                                       kPage, key_buffer);
    const auto values = Factors::prepare(Numbers<T>{static_cast<const T*>(tile.values) + page * kPage * n_out, n_out},
                                         n_positions, n_out, value_buffer);
    // Rows that see something of the page, as blocks: the first and the one after the last.
    const int64_t above = position < 0 ? -position : 0, below = kPage - 2 + window - position + 1;
    const int64_t begin = above * tile.n_heads / kBlock;
    const int64_t n_seeing = below < tile.n_rows ? below * tile.n_heads : n_queries;
    const int64_t stop = (n_seeing + kBlock - 1) / kBlock;
    // Scores run one block ahead of weights and sums one behind, so that tiles and vectors are busy together.
    const auto score = [&](int64_t block) {
      const int64_t m = n_queries - block * kBlock < kBlock ? n_queries - block * kBlock : kBlock;
      Factors::product(queries + block * kBlock * width, width, keys, scores + block % 2 * kBlock * kPage, kPage, m, dim,
                       kPage, false);
    };
    const auto add = [&](int64_t block) {
      const int64_t m = n_queries - block * kBlock < kBlock ? n_queries - block * kBlock : kBlock;
      Factors::product(weights + block % 2 * kBlock * kPage, kPage, values, out + block * kBlock * n_out, n_out, m,
                       n_positions, n_out, true);
    };
    score(begin);
    for (int64_t block = begin; block < stop; ++block) {
      if (block + 1 < stop) score(block + 1);
      const int64_t from = block * kBlock, to = from + kBlock < n_queries ? from + kBlock : n_queries;
      float* row = scores + block % 2 * kBlock * kPage;
      Left* weight = weights + block % 2 * kBlock * kPage;
      const bool whole = !tile.slopes && tile.softcap <= 0 && position + from / tile.n_heads >= kPage - 1 &&
                         position + (to - 1) / tile.n_heads < window;
      for (int64_t i = from; i < to; ++i, row += kPage, weight += kPage) {
        if (whole) {
          weigh<Factors, true>(0, 0, 0, 0, row, weight, largest[i], totals + i * kDimPad, out + i * n_out, n_out);
          continue;
        }
        const int64_t own = position + i / tile.n_heads, first = own - window + 1;
        const float slope = tile.slopes ? tile.slopes[i % tile.n_heads] * kLog2E : 0;
        if (own < 0 || first >= kPage)  // sees nothing of this page
          __builtin_memset(weight, 0, kPage * sizeof(Left));
        else
          weigh<Factors, false>(slope, tile.softcap * kLog2E, first, own, row, weight, largest[i], totals + i * kDimPad,
                                out + i * n_out, n_out);
      }
      if (block > begin) add(block - 1);
    }
    add(stop - 1);
  }
  for (int64_t i = 0; i < n_queries; ++i) {
    float* y = tile.out + i / tile.n_heads * tile.q_stride + i % tile.n_heads * dim;
    const float total = sum(load(totals + i * kDimPad));
    for (int64_t d = 0; d < dim; ++d) y[d] = out[i * n_out + d] / total;
  }
}

template <class T>
static void attend_to(const AttentionTile& tile) {
  const int64_t n_queries = tile.n_rows * tile.n_heads;
#if defined(__AMX_BF16__)
  if (tile.many && sizeof(T) < sizeof(float)) {
    const UseOfTiles use;
    return attend_as<AsTiles, T>(tile);
  }
#endif
  if (n_queries <= kRows || sizeof(T) == sizeof(float))
    attend_as<AsStored, T>(tile);
  else
    attend_as<AsFloats, T>(tile);
}

static void attend(KVType type, const AttentionTile& tile) {
  type == KVType::kF16 ? attend_to<f16>(tile) : attend_to<float>(tile);
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
