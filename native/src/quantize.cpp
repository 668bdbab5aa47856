// The layouts of the K-quants and IQ4_NL: a block is fitted (quantize_fit.h), then packed. The layouts are ggml's;
// src/ingle/gguf/dequantize.py is their readable definition.

#include "quantize.h"

#include "quantize_fit.h"

namespace ingle {
namespace {

using namespace fit;

enum TypeId { kQ2K = 10, kQ3K = 11, kQ4K = 12, kQ5K = 13, kQ6K = 14, kIQ4NL = 20 };

using Byte = std::uint8_t;
using Quants = std::array<Byte, kBlock>;

void store_half(Byte* at, float value) {
  const std::uint16_t half = to_half(value);
  at[0] = static_cast<Byte>(half & 0xff);  // little-endian on every machine
  at[1] = static_cast<Byte>(half >> 8);
}

// q = round(x / scale) per group, counted from Low.
template <int N, int Low, int High>
Quants symmetric_quants(const float* x, const SymmetricBlock<kBlock / N>& block) {
  Quants quants;
  for (int i = 0; i < kBlock; ++i) {
    const float inverse_scale = inverse(block.unit * static_cast<float>(block.multiple[i / N]));
    quants[i] = static_cast<Byte>(nearest_clamped(inverse_scale * x[i], Low, High) - Low);
  }
  return quants;
}

// q = round((x + m) / s) per group.
template <int N, int High>
Quants affine_quants(const float* x, const AffineBlock<kBlock / N>& block) {
  Quants quants;
  for (int i = 0; i < kBlock; ++i) {
    const float inverse_scale = inverse(block.unit * static_cast<float>(block.multiple[i / N]));
    const float minimum = block.minimum_unit * static_cast<float>(block.minimum_multiple[i / N]);
    quants[i] = static_cast<Byte>(nearest_clamped((x[i] + minimum) * inverse_scale, 0, High));
  }
  return quants;
}

// Byte l of each half takes bits [shift, shift + 2) of the weights l, l + 32, l + 64 and l + 96 of that half.
void pack_two_bits(const Quants& quants, int shift, Byte* out) {
  for (int half = 0; half < 2; ++half) {
    for (int l = 0; l < 32; ++l) {
      unsigned packed = 0;
      for (int j = 0; j < 4; ++j) packed |= ((quants[128 * half + 32 * j + l] >> shift) & 3u) << (2 * j);
      out[32 * half + l] = static_cast<Byte>(packed);
    }
  }
}

// Byte l of each run of `Span` bytes takes the lower four bits of weights l and l + Span of the run's 2 Span weights.
template <int Span>
void pack_nibbles(const Quants& quants, Byte* out) {
  for (int byte = 0; byte < kBlock / 2; ++byte) {
    const int first = byte / Span * 2 * Span + byte % Span;
    out[byte] = static_cast<Byte>((quants[first] & 15) | ((quants[first + Span] & 15) << 4));
  }
}

// Bit g of byte l is bit `shift` of weight 32 g + l.
void pack_bits(const Quants& quants, int shift, Byte* out) {
  for (int l = 0; l < 32; ++l) {
    unsigned packed = 0;
    for (int g = 0; g < 8; ++g) packed |= ((quants[32 * g + l] >> shift) & 1u) << g;
    out[l] = static_cast<Byte>(packed);
  }
}

// The 8 scales and 8 minimums of Q4_K and Q5_K, 6 bits each, in 12 bytes.
void pack_scales_and_minimums(const AffineBlock<8>& block, Byte* out) {
  for (int j = 0; j < 4; ++j) {
    const int scale = block.multiple[j], minimum = block.minimum_multiple[j];
    const int later_scale = block.multiple[j + 4], later_minimum = block.minimum_multiple[j + 4];
    out[j] = static_cast<Byte>(scale | ((later_scale >> 4) << 6));
    out[4 + j] = static_cast<Byte>(minimum | ((later_minimum >> 4) << 6));
    out[8 + j] = static_cast<Byte>((later_scale & 15) | ((later_minimum & 15) << 4));
  }
}

void quantize_q2_k(const float* x, Byte* out) {
  const auto block = fit_affine_block<16, 3, 15>(x);
  for (int g = 0; g < 16; ++g) out[g] = static_cast<Byte>(block.multiple[g] | (block.minimum_multiple[g] << 4));
  pack_two_bits(affine_quants<16, 3>(x, block), 0, out + 16);
  store_half(out + 80, block.unit);
  store_half(out + 82, block.minimum_unit);
}

void quantize_q3_k(const float* x, Byte* out) {
  const auto block = fit_symmetric_block<16, -4, 3, -32, 31>(x);
  const Quants quants = symmetric_quants<16, -4, 3>(x, block);
  pack_bits(quants, 2, out);
  pack_two_bits(quants, 0, out + 32);
  std::array<unsigned, 16> scale;
  for (int g = 0; g < 16; ++g) scale[g] = static_cast<unsigned>(block.multiple[g] + 32);
  for (int j = 0; j < 8; ++j) out[96 + j] = static_cast<Byte>((scale[j] & 15) | ((scale[j + 8] & 15) << 4));
  for (int j = 0; j < 4; ++j) {
    const unsigned upper = (scale[j] >> 4) | ((scale[j + 4] >> 4) << 2) | ((scale[j + 8] >> 4) << 4);
    out[104 + j] = static_cast<Byte>(upper | ((scale[j + 12] >> 4) << 6));
  }
  store_half(out + 108, block.unit);
}

void quantize_q4_k(const float* x, Byte* out) {
  const auto block = fit_affine_block<32, 15, 63>(x);
  store_half(out, block.unit);
  store_half(out + 2, block.minimum_unit);
  pack_scales_and_minimums(block, out + 4);
  pack_nibbles<32>(affine_quants<32, 15>(x, block), out + 16);
}

void quantize_q5_k(const float* x, Byte* out) {
  const auto block = fit_affine_block<32, 31, 63>(x);
  const Quants quants = affine_quants<32, 31>(x, block);
  store_half(out, block.unit);
  store_half(out + 2, block.minimum_unit);
  pack_scales_and_minimums(block, out + 4);
  pack_bits(quants, 4, out + 16);
  pack_nibbles<32>(quants, out + 48);
}

void quantize_q6_k(const float* x, Byte* out) {
  const auto block = fit_symmetric_block<16, -32, 31, -128, 127>(x);
  const Quants quants = symmetric_quants<16, -32, 31>(x, block);
  pack_nibbles<64>(quants, out);
  pack_two_bits(quants, 4, out + 128);
  for (int g = 0; g < 16; ++g) out[192 + g] = static_cast<Byte>(block.multiple[g]);
  store_half(out + 208, block.unit);
}

void quantize_iq4_nl(const float* x, Byte* out) {
  const float scale = fit_table_group(x);
  const float inverse_scale = inverse(scale);
  store_half(out, scale);
  for (int i = 0; i < 16; ++i) {
    const int first = table_index(inverse_scale * x[i]), second = table_index(inverse_scale * x[i + 16]);
    out[2 + i] = static_cast<Byte>(first | (second << 4));
  }
}

struct Format {
  int type;
  int weights;
  int bytes;
  void (*quantize)(const float* x, Byte* out);
};

constexpr Format kFormats[] = {
  {kQ2K, kBlock, 84, quantize_q2_k},  {kQ3K, kBlock, 110, quantize_q3_k}, {kQ4K, kBlock, 144, quantize_q4_k},
  {kQ5K, kBlock, 176, quantize_q5_k}, {kQ6K, kBlock, 210, quantize_q6_k}, {kIQ4NL, 32, 18, quantize_iq4_nl},
};

}  // namespace

bool quantize_rows(int ggml_type, const float* x, std::int64_t n, std::int64_t k, std::uint8_t* out) {
  for (const Format& format : kFormats) {
    if (format.type != ggml_type) continue;
    if (n < 0 || k <= 0 || k % format.weights != 0) return false;
    // a row is whole blocks, so the rows together are one run of blocks
    const std::int64_t n_blocks = n * (k / format.weights);
    for (std::int64_t b = 0; b < n_blocks; ++b) format.quantize(x + b * format.weights, out + b * format.bytes);
    return true;
  }
  return false;
}

}  // namespace ingle
