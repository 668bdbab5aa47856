// 16-bit floats to float: exact for every bit pattern, subnormals, infinities and NaNs included.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

namespace ingle {

inline float half_to_float(uint16_t h) {
  // Exponent and mantissa moved into place give the value times 2^-112 (subnormals too); a multiplication sets it
  // right.
  const uint32_t sign = uint32_t(h & 0x8000) << 16;
  const float magnitude = std::bit_cast<float>(uint32_t(h & 0x7fff) << 13) * 0x1p112f;
  const uint32_t special = (h & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u;  // infinity and NaN keep their mantissa
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | special | sign);
}

inline float bfloat_to_float(uint16_t b) { return std::bit_cast<float>(uint32_t(b) << 16); }

// An integer or float from bytes that need not be aligned.
template <class T>
inline T load_unaligned(const void* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

}  // namespace ingle
