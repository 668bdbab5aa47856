// Layouts: the block structs of ggml (ggml-common.h), as described by gguf-py's quants.py.
//
// Four rows are taken at a time. Their words (4 bytes, for codes of bytes: a quad) are turned, so that a vector of four
// words holds the same columns of four rows, as it stands in the planes; everything else is done on such vectors. They
// have the 16 bytes that every processor's vectors have, so the compiler needs no flags to make good code of this.
#include "ggml_blocks.h"

#include <array>
#include <bit>
#include <type_traits>
#include <utility>

#include "half.h"

namespace ingle {
namespace {

using Longs = uint64_t __attribute__((vector_size(16)));
using Words = uint32_t __attribute__((vector_size(16)));
using Halves = uint16_t __attribute__((vector_size(16)));
using Bytes = uint8_t __attribute__((vector_size(16)));
constexpr int kTurned = 4;  // rows in one vector

// Where the parts of a block begin. All bits of its codes lie together.
struct Block {
  int codes, scale, minimum, sub_scales;
};

constexpr Block kBlocks[kPlaneKinds] = {
    {2, 0, 0, 0},      // Q4_0
    {4, 0, 2, 0},      // Q4_1
    {2, 0, 0, 0},      // Q5_0
    {4, 0, 2, 0},      // Q5_1
    {2, 0, 0, 0},      // Q8_0
    {2, 0, 0, 0},      // IQ4_NL
    {1, 0, 0, 0},      // MXFP4
    {16, 80, 82, 0},   // Q2_K
    {0, 108, 0, 96},   // Q3_K
    {16, 0, 2, 4},     // Q4_K
    {16, 0, 2, 4},     // Q5_K
    {0, 208, 0, 192},  // Q6_K
};

// f(i) for i in [0, n), as constants.
template <int n, class Function>
void for_each(Function f) {
  [&]<int... i>(std::integer_sequence<int, i...>) {
    (f(std::integral_constant<int, i>()), ...);
  }(std::make_integer_sequence<int, n>());
}

// The planes of codes of `bits` bits, as constants: f(bits of the plane, bits of the planes before it).
template <int bits, int before = 0, class Function>
void for_each_plane(Function f) {
  if constexpr (bits > 0) {
    constexpr int width = std::bit_floor(unsigned{bits});
    f(std::integral_constant<int, width>(), std::integral_constant<int, before>());
    for_each_plane<bits - width, before + width>(f);
  }
}

// `width` bits of four codes at once, one code in each byte of a word.
template <class Word>
Word field(Word word, int shift, int width) {
  return (word >> shift) & ((0xffu >> (8 - width)) * 0x01010101u);
}

void put(uint8_t* to, const auto& value) { std::memcpy(to, &value, sizeof value); }

// a0 b0 a1 b1 ... of the lower half of two vectors, or of the upper one.
template <int upper, class Vector>
Vector zip(Vector a, Vector b) {
  constexpr int n = sizeof(Vector) / sizeof a[0];
  return [&]<int... i>(std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(a, b, (upper * n / 2 + i / 2 + i % 2 * n)...);
  }(std::make_integer_sequence<int, n>());
}

// 16 bytes of each of four rows, as elements of Small: first the first elements of all four, then the second ones, ...
template <class Small, class Large>
std::array<Large, 4> turn(const uint8_t* rows, size_t stride) {
  const auto at = [&](int r) { return load_unaligned<Small>(rows + size_t(r) * stride); };
  const Small a = at(0), b = at(1), c = at(2), d = at(3);
  const auto low_ab = Large(zip<0>(a, b)), low_cd = Large(zip<0>(c, d));
  const auto high_ab = Large(zip<1>(a, b)), high_cd = Large(zip<1>(c, d));
  return {zip<0>(low_ab, low_cd), zip<1>(low_ab, low_cd), zip<0>(high_ab, high_cd), zip<1>(high_ab, high_cd)};
}

// The first n words of four rows: lane r of element w is word w of row r.
template <int n>
std::array<Words, n> turn_words(const uint8_t* rows, size_t stride) {
  std::array<Words, n> turned;
  for_each<n / 4>([&](auto i) {
    const auto four = turn<Words, Longs>(rows + 16 * i, stride);
    for (int j = 0; j < 4; ++j) turned[4 * i + j] = Words(four[j]);
  });
  for (int w = n / 4 * 4; w < n; ++w) {
    const auto word = [&](int r) { return load_unaligned<uint32_t>(rows + size_t(r) * stride + 4 * w); };
    turned[w] = Words{word(0), word(1), word(2), word(3)};
  }
  return turned;
}

// Byte i of each of four words, for i = 0, 1, 2, 3: what `turn` does, within a vector.
Words turn_bytes(Words words) {
  const auto half_way = [](Bytes b) {
    return __builtin_shufflevector(b, b, 0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
  };
  return Words(half_way(half_way(Bytes(words))));
}

// Codes of columns 32 * g + 4 * q and the three after it, from the words with the codes of a block.
template <Kind kind, int g>
Words quad(const Words* w, int q) {
  switch (kind) {
    case Q8_0: return w[q] ^ 0x80808080u;
    case Q5_0:
    case Q5_1: {  // bit i of the first word is the fifth of column i
      const Words fifth = w[0] >> (4 * q) & 15u;
      return field(w[1 + q % 4], q / 4 * 4, 4) | field(fifth | fifth << 7 | fifth << 14 | fifth << 21, 0, 1) << 4;
    }
    // Super-blocks: eight words hold the same columns of several groups, the first group in the lowest bits.
    case Q2_K: return field(w[g / 4 * 8 + q], g % 4 * 2, 2);
    case Q3_K: return field(w[8 + g / 4 * 8 + q], g % 4 * 2, 2) | field(w[q], g, 1) << 2;
    case Q4_K: return field(w[g / 2 * 8 + q], g % 2 * 4, 4);
    case Q5_K: return field(w[8 + g / 2 * 8 + q], g % 2 * 4, 4) | field(w[q], g, 1) << 4;
    case Q6_K:  // low nibbles go by 64 columns, not by 32 as those of Q4_K
      return field(w[g / 4 * 16 + g % 2 * 8 + q], g % 4 / 2 * 4, 4) | field(w[32 + g / 4 * 8 + q], g % 4 * 2, 2) << 4;
    default: return field(w[q % 4], q / 4 * 4, 4);
  }
}

// The 16 sub-scales of a super-block, four in a word: in the order of their lines, or 8 scales and then 8 minima.
template <Kind kind>
std::array<Words, 4> sub_scales(const uint8_t* rows, size_t stride) {
  if constexpr (kind == Q2_K || kind == Q6_K) return turn_words<4>(rows, stride);
  const auto s = turn_words<3>(rows, stride);  // of 6 bits
  if constexpr (kind != Q3_K)
    return {field(s[0], 0, 6), field(s[2], 0, 4) | field(s[0], 6, 2) << 4,
            field(s[1], 0, 6), field(s[2], 4, 4) | field(s[1], 6, 2) << 4};
  std::array<Words, 4> subs;
  for (int i = 0; i < 4; ++i) {  // stored plus 32
    subs[i] = Words(Bytes(field(s[i % 2], i / 2 * 4, 4) | field(s[2], 2 * i, 2) << 4) - 32);
  }
  return subs;
}

// A power of two with an 8-bit exponent, halved: exact as a bfloat16.
uint16_t halved_e8m0(uint8_t e) { return e < 2 ? uint16_t(0x20 << e) : uint16_t((e - 1) << 7); }

template <Kind kind>
void write_planes(const uint8_t* rows, size_t row_bytes, uint8_t* panel) {
  constexpr Format f = kFormats[kind];
  constexpr Block at = kBlocks[kind];
  for (int64_t u = 0; u < int64_t(row_bytes) / f.ggml_block_bytes; ++u) {
    for (int row = 0; row < kPanelRows; row += kTurned) {
      const uint8_t* block = rows + size_t(row) * row_bytes + size_t(u) * f.ggml_block_bytes;
      for (int r = 0; r < kTurned; ++r) {
        const uint8_t* b = block + size_t(r) * row_bytes;
        const auto half = [b](int offset) { return load_unaligned<uint16_t>(b + offset); };
        uint8_t* lane = panel + 2 * (row + r);
        put(lane + f.scale_at(u), kind == MXFP4 ? halved_e8m0(*b) : half(at.scale));
        // Super-blocks subtract their minimum.
        if (f.minimum) put(lane + f.minimum_at(u), uint16_t(half(at.minimum) ^ (f.super() ? 0x8000 : 0)));
      }
      uint8_t* to = panel + f.unit_at(u);
      if constexpr (f.super()) {
        const auto subs = sub_scales<kind>(block + at.sub_scales, row_bytes);
        for (int i = 0; i < 16; ++i) {
          const int line = f.scale == Scale::u8_pairs ? i % 8 * 2 + i / 8 : i;
          put(to + kPanelRows * line + row, uint32_t(turn_bytes(subs[i / 4])[i % 4]));
        }
        to += kSuper;
      }
      to += kQuad * row;
      const auto words = turn_words<f.bits * f.ggml_block_columns / 32>(block + at.codes, row_bytes);
      for_each<f.unit_columns() / kGroup>([&](auto g) {
        Words codes[8];
        for (int q = 0; q < 8; ++q) codes[q] = quad<kind, g>(words.data(), q);
        for_each_plane<f.bits>([&](auto width, auto before) {
          for (int j = 0; j < width; ++j, to += kVector) {
            Words shared = field(codes[j], before, width);
            for (int t = 1; t < 8 / width; ++t) shared |= field(codes[j + width * t], before, width) << (width * t);
            put(to, shared);
          }
        });
      });
    }
  }
}

// Columns one after the other.
template <Kind kind>
void write_floats(const uint8_t* rows, size_t row_bytes, uint8_t* panel) {
  constexpr size_t size = kFormats[kind].bits / 8;
  using Small = std::conditional_t<size == 4, Words, Halves>;
  using Large = std::conditional_t<size == 4, Longs, Words>;
  for (int row = 0; row < kPanelRows; row += kTurned) {
    const uint8_t* from = rows + size_t(row) * row_bytes;
    uint8_t* to = panel + size_t(row) * size;
    const auto put_columns = [&to](const auto& turned) {
      for (size_t at = 0; at < sizeof turned; at += kTurned * size, to += kPanelRows * size)
        std::memcpy(to, reinterpret_cast<const uint8_t*>(&turned) + at, kTurned * size);
    };
    size_t at = 0;
    for (; at + 16 <= row_bytes; at += 16) put_columns(turn<Small, Large>(from + at, row_bytes));
    for (; at < row_bytes; at += size, to += kPanelRows * size)
      for (int r = 0; r < kTurned; ++r) std::memcpy(to + size_t(r) * size, from + size_t(r) * row_bytes + at, size);
  }
}

template <Kind kind>
void read_planes(const uint8_t* panel, int row, int64_t k, float* out) {
  constexpr Format f = kFormats[kind];
  for (int64_t u = 0; u < k / f.unit_columns(); ++u) {
    const auto half_at = [&](size_t at) { return load_unaligned<uint16_t>(panel + at + 2 * row); };
    const float d = (f.scale == Scale::bf16 ? bfloat_to_float : half_to_float)(half_at(f.scale_at(u)));
    const float m = f.minimum ? half_to_float(half_at(f.minimum_at(u))) : 0.0f;
    const uint8_t* subs = panel + f.unit_at(u) + row;
    const uint8_t* lane = panel + f.unit_at(u) + (f.super() ? kSuper : 0) + kQuad * row;
    for (int g = 0; g < f.unit_columns() / kGroup; ++g) {
      uint32_t words[8] = {};
      for_each_plane<f.bits>([&](auto width, auto before) {
        for (int j = 0; j < width; ++j, lane += kVector)
          for (int t = 0; t < 8 / width; ++t)
            words[j + width * t] |= field(load_unaligned<uint32_t>(lane), width * t, width) << before;
      });
      const auto codes = std::bit_cast<std::array<uint8_t, kGroup>>(words);
      for (int i = 0; i < kGroup; ++i) {
        const uint8_t* sub = subs + 32 * g + (f.scale == Scale::u8_pairs ? 0 : i / 16 * 16);
        float scale = d, minimum = m;  // each product is rounded as in ggml: (d * sub-scale) * code
        if (f.scale == Scale::u8_pairs) scale *= sub[0], minimum *= sub[16];
        if (f.scale == Scale::u4_pairs) scale *= *sub & 15, minimum *= *sub >> 4;
        if (f.scale == Scale::i8) scale *= int8_t(*sub);
        scale *= float(f.lookup() ? kTables[int(f.table)][codes[i]] : int(codes[i]) - f.zero);
        *out++ = f.minimum ? scale + minimum : scale;
      }
    }
  }
}

template <Kind kind>
void read_floats(const uint8_t* panel, int row, int64_t k, float* out) {
  constexpr size_t size = kFormats[kind].bits / 8;
  for (const uint8_t* p = panel + size_t(row) * size; k > 0; --k, p += kPanelRows * size) {
    if constexpr (kind == F32) *out++ = load_unaligned<float>(p);
    else *out++ = (kind == F16 ? half_to_float : bfloat_to_float)(load_unaligned<uint16_t>(p));
  }
}

// Calls f(kind) with the kind as a constant.
template <class Function>
void with_constant(Kind kind, Function f) {
  for_each<kKinds>([&](auto i) {
    if (kind == int(i)) f(std::integral_constant<Kind, static_cast<Kind>(i.value)>());
  });
}

}  // namespace

void write_panel(Kind kind, const uint8_t* rows, size_t row_bytes, uint8_t* panel) {
  with_constant(kind, [&](auto constant) {
    if constexpr (constant < kPlaneKinds) write_planes<constant>(rows, row_bytes, panel);
    else write_floats<constant>(rows, row_bytes, panel);
  });
}

void read_row(Kind kind, const uint8_t* panel, int row, int64_t k, float* out) {
  with_constant(kind, [&](auto constant) {
    if constexpr (constant < kPlaneKinds) read_planes<constant>(panel, row, k, out);
    else read_floats<constant>(panel, row, k, out);
  });
}

}  // namespace ingle
