// Layouts: the block structs of ggml (ggml-common.h), as described by gguf-py's quants.py. 16-bit scales are kept as
// bit patterns; nothing is rounded here.
#include "ggml_blocks.h"

#include "half.h"

namespace ingle {
namespace {

uint16_t negated(uint16_t half) { return half ^ 0x8000; }

// 16 bytes hold 32 nibbles: columns 0..15 in the low halves, 16..31 in the high ones.
void read_nibbles(const uint8_t* qs, uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = qs[i] & 15;
    codes[16 + i] = qs[i] >> 4;
  }
}

// Q5_0 and Q5_1: the fifth bits of 32 columns in one little-endian word.
void read_fifth_bits(const uint8_t* qh, uint8_t* codes) {
  const auto bits = load_unaligned<uint32_t>(qh);
  for (int i = 0; i < 32; ++i) codes[i] |= ((bits >> i) & 1) << 4;
}

// Bits of super-blocks: 32 bytes hold the same columns of 8 / width groups, the first group in the lowest bits.
void add_bits(const uint8_t* bytes, int groups, int width, int shift, uint8_t* codes) {
  const int mask = (1 << width) - 1;
  const int groups_per_byte = 8 / width;
  for (int g = 0; g < groups; ++g) {
    const uint8_t* q = bytes + g / groups_per_byte * 32;
    const int down = g % groups_per_byte * width;
    for (int i = 0; i < 32; ++i) codes[32 * g + i] |= uint8_t(((q[i] >> down) & mask) << shift);
  }
}

// Q4_K and Q5_K: 8 scales and 8 minima of 6 bits in 12 bytes; written as (scale, minimum) pairs.
void read_six_bit_pairs(const uint8_t* s, uint8_t* pairs) {
  for (int g = 0; g < 4; ++g) {
    pairs[2 * g] = s[g] & 63;
    pairs[2 * g + 1] = s[4 + g] & 63;
    pairs[8 + 2 * g] = uint8_t((s[8 + g] & 15) | ((s[g] >> 2) & 48));
    pairs[9 + 2 * g] = uint8_t((s[8 + g] >> 4) | ((s[4 + g] >> 2) & 48));
  }
}

// Q3_K: 16 signed scales of 6 bits in 12 bytes, stored plus 32.
void read_six_bit_signed(const uint8_t* s, uint8_t* scales) {
  for (int i = 0; i < 16; ++i) {
    const int low = (s[i % 8] >> (i / 8 * 4)) & 15;
    const int high = (s[8 + i % 4] >> (i / 4 * 2)) & 3;
    scales[i] = uint8_t((low | high << 4) - 32);
  }
}

// A power of two with an 8-bit exponent, halved: exact as a bfloat16.
uint16_t halved_e8m0(uint8_t e) { return e < 2 ? uint16_t(0x20 << e) : uint16_t((e - 1) << 7); }

}  // namespace

void read_block(Kind kind, const uint8_t* block, Unit& unit) {
  const auto half_at = [block](int offset) { return load_unaligned<uint16_t>(block + offset); };
  uint8_t* codes = unit.codes;
  if (kFormats[kind].super()) std::memset(codes, 0, kSuper);
  switch (kind) {
    case Q4_0:
    case IQ4_NL:
      unit.scale = half_at(0);
      read_nibbles(block + 2, codes);
      break;
    case MXFP4:
      unit.scale = halved_e8m0(block[0]);
      read_nibbles(block + 1, codes);
      break;
    case Q4_1:
      unit.scale = half_at(0);
      unit.minimum = half_at(2);
      read_nibbles(block + 4, codes);
      break;
    case Q5_0:
      unit.scale = half_at(0);
      read_nibbles(block + 6, codes);
      read_fifth_bits(block + 2, codes);
      break;
    case Q5_1:
      unit.scale = half_at(0);
      unit.minimum = half_at(2);
      read_nibbles(block + 8, codes);
      read_fifth_bits(block + 4, codes);
      break;
    case Q8_0:
      unit.scale = half_at(0);
      for (int i = 0; i < 32; ++i) codes[i] = block[2 + i] ^ 0x80;
      break;
    case Q2_K:
      std::memcpy(unit.sub_scales, block, 16);
      add_bits(block + 16, 8, 2, 0, codes);
      unit.scale = half_at(80);
      unit.minimum = negated(half_at(82));
      break;
    case Q3_K:
      add_bits(block + 32, 8, 2, 0, codes);
      add_bits(block, 8, 1, 2, codes);
      read_six_bit_signed(block + 96, unit.sub_scales);
      unit.scale = half_at(108);
      break;
    case Q4_K:
      unit.scale = half_at(0);
      unit.minimum = negated(half_at(2));
      read_six_bit_pairs(block + 4, unit.sub_scales);
      add_bits(block + 16, 8, 4, 0, codes);
      break;
    case Q5_K:
      unit.scale = half_at(0);
      unit.minimum = negated(half_at(2));
      read_six_bit_pairs(block + 4, unit.sub_scales);
      add_bits(block + 48, 8, 4, 0, codes);
      add_bits(block + 16, 8, 1, 4, codes);
      break;
    case Q6_K:
      // Low nibbles go by 64 columns, not by 32 as those of Q4_K.
      for (int g = 0; g < 8; ++g) {
        const uint8_t* ql = block + g / 4 * 64 + g % 2 * 32;
        const int down = g % 4 / 2 * 4;
        for (int i = 0; i < 32; ++i) codes[32 * g + i] = (ql[i] >> down) & 15;
      }
      add_bits(block + 128, 8, 2, 4, codes);
      std::memcpy(unit.sub_scales, block + 192, 16);
      unit.scale = half_at(208);
      break;
    default: break;  // floats have no units
  }
}

}  // namespace ingle
