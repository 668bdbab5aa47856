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

namespace ingle {
namespace {

#define INGLE_MEMBER inline __attribute__((always_inline))

constexpr float kLog2E = 1.44269504f;
constexpr float kNever = -3e38f;
constexpr float kRise = 8;
constexpr int64_t kBlock = 32;  // queries that go through both products together: what they use stays in the L1 cache

INGLE_INLINE int64_t min(int64_t a, int64_t b) { return a < b ? a : b; }

// Rows of a page as it lies in the cache, in vectors of floats. What is read asks for the same of the page that is
// likely to be the next one, `ahead` bytes away: the hardware does not see that it comes next.
template <class T>
struct Numbers {
  using Type = T;
  const T* p;
  int64_t width, ahead;
  INGLE_MEMBER vf operator()(int64_t row, int64_t column) const {
    const T* at = p + row * width + column;
    __builtin_prefetch(reinterpret_cast<const uint8_t*>(at) + ahead);
    return load(at);
  }
};

// Signed bytes.
INGLE_INLINE vi load_bytes(const uint8_t* p) {
#if defined(__AVX512F__)
  return reinterpret_cast<vi>(_mm512_maskz_cvtepi8_epi32(0xffff, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return reinterpret_cast<vi>(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  vi v{};
  for (int i = 0; i < kWidth; ++i) v[i] = static_cast<int8_t>(p[i]);
  return v;
#endif
}

// The same of codes. Their scales have been converted to floats: one for each 32 numbers along the rows of keys, along
// the columns of values, or for each 16 of codes of 4 bits, times what is left of the place of the code in its byte.
template <KVType kType, bool kKeys>
struct Codes {
  static constexpr int64_t kSpan = kType == KVType::kQ8 ? 32 : 16;
  const uint8_t* p;
  const float* scales;  // keys [spans][kPage], values [kPage][spans]
  int64_t width, spans, ahead;
  INGLE_MEMBER vf operator()(int64_t row, int64_t column) const {
    const auto d = static_cast<uint64_t>(kKeys ? row : column);
    const uint64_t byte = kType == KVType::kQ8 ? d : d / 32 * 16 + d % 16;
    const uint8_t* at = p + (kKeys ? byte * kPage + column : row * width + byte);
    __builtin_prefetch(at + ahead);
    vi codes = load_bytes(at);
    if constexpr (kType == KVType::kQ4) codes = d & 16 ? codes & -16 : codes << 28;
    const vf scale = kKeys ? load(scales + d / kSpan * kPage + column) : all(scales[row * spans + d / kSpan]);
    return __builtin_convertvector(codes, vf) * scale;
  }
};

// What lies at `at`, `dim` numbers for each position: keys, or values (dim is padded then).
template <KVType kType, bool kKeys>
INGLE_INLINE auto numbers_at(const uint8_t* at, int64_t dim, int64_t ahead, float* scales) {
  const int64_t width = kKeys ? kPage : dim;
  if constexpr (kType == KVType::kF32) {
    return Numbers<float>{reinterpret_cast<const float*>(at), width, ahead};
  } else if constexpr (kType == KVType::kF16) {
    return Numbers<f16>{reinterpret_cast<const f16*>(at), width, ahead};
  } else {
    using Result = Codes<kType, kKeys>;
    const int64_t bytes = code_bytes(kType, dim), groups = kv_groups(dim), spans = groups * kKVGroup / Result::kSpan;
    const f16* stored = reinterpret_cast<const f16*>(at + kPage * bytes);
    constexpr int64_t kInner = kKeys ? kPage : 1;  // numbers that stand together for each span
    for (int64_t i = 0; i < groups * kPage; i += kWidth) {
      float scale[kWidth];
      store(scale, load(stored + i));
      for (int j = 0; j < kWidth; ++j) {
        const int64_t group = (i + j) / kInner, rest = (i + j) % kInner;
        if constexpr (kType == KVType::kQ8) {
          scales[i + j] = scale[j];
        } else {
          scales[2 * group * kInner + rest] = scale[j] * 0x1p-28f;
          scales[(2 * group + 1) * kInner + rest] = scale[j] * 0x1p-4f;
        }
      }
    }
    return Result{at, scales, bytes, spans, ahead};
  }
}

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
  static constexpr int64_t kPages = 1;  // prepared together
  static constexpr bool kRough = false;
  template <class B>
  INGLE_INLINE B prepare(B page, int64_t, int64_t, Left*) {
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
  struct Converted {
    const float* p;
    int64_t width;
    INGLE_MEMBER vf operator()(int64_t row, int64_t column) const { return load(p + row * width + column); }
  };
  template <class B>
  INGLE_INLINE Converted prepare(B page, int64_t k, int64_t n, Left* buffer) {
    for (int64_t i = 0; i < k; ++i)
      for (int64_t j = 0; j < n; j += kWidth) store(buffer + i * n + j, page(i, j));
    return {buffer, n};
  }
};

}  // namespace
}  // namespace ingle

#if defined(__AMX_BF16__)
#include "attention_tiles.h"
#endif

namespace ingle {
namespace {

INGLE_INLINE bool any_above(vf v, float limit) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(v), _mm512_set1_ps(limit), _CMP_GT_OQ) != 0;
#else
  return max(v) > limit;
#endif
}

// Loaded from kPage - i on: what positions from i on may have; from 2 kPage - i on: what positions below i may have.
struct Limits {
  float values[3 * kPage];
  constexpr Limits() : values() {
    for (int64_t i = 0; i < 3 * kPage; ++i) values[i] = i >= kPage && i < 2 * kPage ? 3e38f : kNever;
  }
};
constexpr Limits kLimits;

template <class Factors, KVType kType>
class Attention {
 public:
  explicit Attention(const AttentionTile& tile)
      : tile_(tile),
        dim_(tile.head_dim),
        n_out_(padded_dim(dim_)),
        width_((dim_ + 31) / 32 * 32),
        n_queries_(tile.n_rows * tile.n_heads),
        window_(tile.window > 0 ? tile.window : tile.position + tile.n_rows) {
    float* next = tile.scratch;
    const auto take = [&next](int64_t n) { return (next += n) - n; };
    out_ = take(kTileQueries * n_out_);
    totals_ = take(kTileQueries * kDimPad);
    largest_ = take(kTileQueries);
    scores_ = take(kBlock * kPage);
    scales_ = take(kPage * width_ / 8);
    queries_ = reinterpret_cast<Left*>(take(kTileQueries * width_));
    pages_ = next;
  }

  void run() {
    begin();
    const int64_t end = tile_.position + tile_.n_rows, n_pages = (end + kPage - 1) / kPage;
    const int64_t first = tile_.position >= window_ ? (tile_.position - window_ + 1) / kPage : 0;
    for (int64_t page = first; page < n_pages; page += Factors::kPages) {
      const int64_t n = min(Factors::kPages, n_pages - page);
      Keys keys[Factors::kPages]{};
      Values values[Factors::kPages]{};
      for (int64_t i = 0; i < n; ++i) {
        const uint8_t* at = tile_.pages + (page + i) * tile_.page_stride;
        const int64_t ahead = page + i + 1 < n_pages ? tile_.page_stride : tile_.next ? tile_.next - at : 0;
        auto* buffer = reinterpret_cast<Left*>(pages_) + i * kPage * (width_ + n_out_);
        keys[i] = Factors::prepare(numbers_at<kType, true>(at, dim_, ahead, scales_), dim_, kPage, buffer);
        values[i] = Factors::prepare(
            numbers_at<kType, false>(at + key_page_bytes(kType, dim_), n_out_, ahead, scales_ + kPage * width_ / 16),
            min(kPage, end - (page + i) * kPage), n_out_, buffer + kPage * width_);
      }
      for (int64_t query = 0; query < n_queries_; query += kBlock)
        for (int64_t i = 0; i < n; ++i) attend(query, page + i, keys[i], values[i]);
    }
    finish();
  }

 private:
  using Left = typename Factors::Left;
  using Keys = decltype(Factors::prepare(numbers_at<kType, true>(nullptr, 0, 0, nullptr), 0, 0, nullptr));
  using Values = decltype(Factors::prepare(numbers_at<kType, false>(nullptr, 0, 0, nullptr), 0, 0, nullptr));

  void begin() {
    for (int64_t i = 0; i < n_queries_; ++i) {
      const float* q = tile_.q + i / tile_.n_heads * tile_.q_stride + i % tile_.n_heads * dim_;
      for (int64_t d = 0; d < width_; d += 32) {
        constexpr int kSteps = 32 / kWidth;
        vf v[kSteps] = {};
        if (d + 32 <= dim_) {
          for (int j = 0; j < kSteps; ++j) v[j] = load(q + d + j * kWidth);
        } else {
          __builtin_memcpy(v, q + d, uint64_t(dim_ - d) * sizeof(float));
        }
        for (int j = 0; j < kSteps; ++j) v[j] *= tile_.scale * kLog2E;
        Factors::put(v, kSteps, queries_ + i * width_ + d);
      }
      largest_[i] = kNever;
    }
    __builtin_memset(totals_, 0, uint64_t(n_queries_ * kDimPad) * sizeof(float));
  }

  // One block of queries and one page.
  INGLE_MEMBER void attend(int64_t query, int64_t page, Keys keys, Values values) {
    const int64_t m = min(kBlock, n_queries_ - query), position = tile_.position - page * kPage;  // of row 0, in the page
    const int64_t first = position + query / tile_.n_heads, last = position + (query + m - 1) / tile_.n_heads;
    const int64_t n_seen = min(kPage, last + 1);
    if (n_seen <= 0 || first - window_ >= kPage - 1) return;
    Factors::product(queries_ + query * width_, width_, keys, scores_, kPage, m, dim_, padded_dim(n_seen), false);
    const bool begun = largest_[query] != kNever;  // its first row sees the first page that any row sees
    const bool plain = !tile_.slopes && tile_.softcap <= 0 && first >= kPage - 1 && last < window_;
    int64_t own = first, head = query % tile_.n_heads;
    for (int64_t i = 0; i < m; ++i) {
      plain ? weigh<true>(query + i, 0, 0, scores_ + i * kPage) : weigh<false>(query + i, head, own, scores_ + i * kPage);
      if (++head == tile_.n_heads) head = 0, ++own;
    }
    Factors::product(reinterpret_cast<const Left*>(scores_), kPage * sizeof(float) / sizeof(Left), values,
                     out_ + query * n_out_, n_out_, m, n_seen, n_out_, begun);
  }

  // Scores of one query and one page become weights, in place. The query's own position is `own`, in the page.
  template <bool kPlain>  // no bias, no cap, and the whole page is seen
  INGLE_MEMBER void weigh(int64_t query, int64_t head, int64_t own, float* scores) {
    constexpr int kSteps = kPage / kWidth;
    vf s[kSteps];
#pragma GCC unroll 16
    for (int i = 0; i < kSteps; ++i) s[i] = load(scores + i * kWidth);
    if constexpr (!kPlain) {
      if (own < 0 || own - window_ >= kPage - 1) {  // sees nothing
        __builtin_memset(scores, 0, kPage * sizeof(float));
        return;
      }
      const float slope = tile_.slopes ? tile_.slopes[head] * kLog2E : 0, cap = tile_.softcap * kLog2E;
      const float* low = kLimits.values + kPage - (own < window_ ? 0 : own - window_ + 1);
      const float* high = kLimits.values + 2 * kPage - 1 - min(own, kPage - 1);
      vf distance = all(static_cast<float>(-own));
      for (int i = 0; i < kWidth; ++i) distance[i] += static_cast<float>(i);
#pragma GCC unroll 16
      for (int i = 0; i < kSteps; ++i, distance += all(kWidth)) {
        if (slope != 0) s[i] += distance * slope;
        if (cap > 0) s[i] = tanh(s[i] / cap) * cap;
        s[i] = min(min(s[i], load(low + i * kWidth)), load(high + i * kWidth));
      }
    }
    vf top = s[0];
#pragma GCC unroll 16
    for (int i = 1; i < kSteps; ++i) top = max(top, s[i]);
    float* total = totals_ + query * kDimPad;
    vf sum = load(total);
    if (any_above(top, largest_[query] + kRise)) {
      const float before = largest_[query], now = largest_[query] = max(top);
      if (before != kNever) {
        const vf shrink = power_of_two<false>(all(before - now));
        sum *= shrink;
        float* out = out_ + query * n_out_;
        for (int64_t i = 0; i < n_out_; i += kWidth) store(out + i, load(out + i) * shrink);
      }
    }
    const float largest = largest_[query];
#pragma GCC unroll 16
    for (int i = 0; i < kSteps; ++i) {
      s[i] = power_of_two<Factors::kRough>(s[i] - largest);
      sum += s[i];
    }
    store(total, sum);
    Factors::put(s, kSteps, reinterpret_cast<Left*>(scores));
  }

  void finish() {
    for (int64_t i = 0; i < n_queries_; ++i) {
      float* y = tile_.out + i / tile_.n_heads * tile_.q_stride + i % tile_.n_heads * dim_;
      const float factor = 1 / sum(load(totals_ + i * kDimPad));
      for (int64_t d = 0; d < dim_; ++d) y[d] = out_[i * n_out_ + d] * factor;
    }
  }

  const AttentionTile& tile_;
  const int64_t dim_, n_out_, width_, n_queries_, window_;
  float *out_, *totals_, *largest_;  // of each query: the sum so far, that of the weights (lane by lane), see kRise
  float *scores_, *scales_, *pages_;
  Left* queries_;
};

template <KVType kType>
static void attend_to(const AttentionTile& tile) {
  constexpr bool kExact = kType == KVType::kF32;  // floats are neither converted nor rounded
#if defined(__AMX_BF16__)
  if (tile.many && !kExact) {
    const UseOfTiles use;
    return Attention<AsTiles, kType>(tile).run();
  }
#endif
  if (kExact || tile.n_rows * tile.n_heads <= kRows)
    Attention<AsStored, kType>(tile).run();
  else
    Attention<AsFloats, kType>(tile).run();
}

static void attend(KVType type, const AttentionTile& tile) {
  switch (type) {
    case KVType::kF32: return attend_to<KVType::kF32>(tile);
    case KVType::kF16: return attend_to<KVType::kF16>(tile);
    case KVType::kQ8: return attend_to<KVType::kQ8>(tile);
    case KVType::kQ4: return attend_to<KVType::kQ4>(tile);
  }
}

// x [n] becomes numbers or codes that lie `step` bytes (or halves, or floats) apart, and scales `scale_step` apart.
template <class T>
INGLE_INLINE void store_numbers(const float* x, int64_t n, T* out, int64_t step) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    T lanes[kWidth];
    store(step == 1 ? out + i : lanes, load(x + i));
    for (int j = 0; j < kWidth && step != 1; ++j) out[(i + j) * step] = lanes[j];
  }
  for (; i < n; ++i) convert(x[i], out + i * step);
}

// ggml's rounding: Q8_0 to the nearest, halves away from zero; Q4_0 so that the number of largest magnitude (of two that
// differ in sign, the positive) has code 0. A group with a NaN or an infinity gives NaN; one below 1e-30 is zero.
template <KVType kType>
static void store_codes(const float* x, int64_t n, uint8_t* out, int64_t step, f16* scales, int64_t scale_step) {
  for (; n > 0; n -= kKVGroup, x += kKVGroup, scales += scale_step) {
    constexpr int kSteps = kKVGroup / kWidth;
    const int64_t some = min(n, kKVGroup);
    vf v[kSteps] = {};
    __builtin_memcpy(v, x, static_cast<uint64_t>(some) * sizeof(float));
    vf high{}, low{}, nothing{};
    for (int i = 0; i < kSteps; ++i) {
      high = max(high, v[i]);
      low = min(low, v[i]);
      nothing += v[i] - v[i];  // 0, or NaN for what is not finite
    }
    const float top = max(high), bottom = -max(-low), largest = top >= -bottom ? top : bottom;
    const bool finite = sum(nothing) == 0;
    const float scale = kType == KVType::kQ8 ? (largest < 0 ? -largest : largest) / 127 : largest / -8;
    const float factor = finite && (largest < -1e-30f || largest > 1e-30f) ? 1 / scale : 0;
    convert(finite ? scale : __builtin_nanf(""), scales);
    int8_t codes[kKVGroup];
    for (int i = 0; i < kSteps; ++i) {
      const vf scaled = factor != 0 ? v[i] * factor : vf{};
      const vf half = kType == KVType::kQ8 ? select(scaled < vf{}, all(-0.5f), all(0.5f)) : all(8.5f);
      const vi code = __builtin_convertvector(scaled + half, vi);
      for (int j = 0; j < kWidth; ++j) codes[i * kWidth + j] = static_cast<int8_t>(code[j]);
    }
    if (kType == KVType::kQ4)
      for (int i = 0; i < 16; ++i) {
        const int a = codes[i] < 15 ? codes[i] : 15, b = codes[i + 16] < 15 ? codes[i + 16] : 15;
        codes[i] = static_cast<int8_t>((a | b << 4) ^ 0x88);  // both less 8, in two's complement
      }
    const int64_t bytes = code_bytes(kType, some);
    for (int64_t i = 0; i < bytes; ++i, out += step) *out = static_cast<uint8_t>(codes[i]);
  }
}

template <KVType kType>
INGLE_INLINE void store_as(const float* k, const float* v, uint8_t* keys, uint8_t* values, int64_t within, int64_t dim) {
  const int64_t padded = padded_dim(dim);
  if constexpr (kType <= KVType::kF16) {
    using T = typename decltype(numbers_at<kType, true>(nullptr, 0, 0, nullptr))::Type;
    store_numbers(k, dim, reinterpret_cast<T*>(keys) + within, kPage);
    store_numbers(v, dim, reinterpret_cast<T*>(values) + within * padded, 1);
  } else {
    const int64_t bytes = code_bytes(kType, padded);
    store_codes<kType>(k, dim, keys + within, kPage, reinterpret_cast<f16*>(keys + kPage * code_bytes(kType, dim)) + within, kPage);
    store_codes<kType>(v, dim, values + within * bytes, 1, reinterpret_cast<f16*>(values + kPage * bytes) + within * kv_groups(dim), 1);
  }
}

static void store_position(KVType type, const float* k, const float* v, uint8_t* page, int64_t within, int64_t dim) {
  uint8_t* values = page + key_page_bytes(type, dim);
  switch (type) {
    case KVType::kF32: return store_as<KVType::kF32>(k, v, page, values, within, dim);
    case KVType::kF16: return store_as<KVType::kF16>(k, v, page, values, within, dim);
    case KVType::kQ8: return store_as<KVType::kQ8>(k, v, page, values, within, dim);
    case KVType::kQ4: return store_as<KVType::kQ4>(k, v, page, values, within, dim);
  }
}

}  // namespace
}  // namespace ingle
