// One row's share of a unit, read from GGML blocks: the step between a file and the planes.
#pragma once
#include <cstdint>

#include "planes.h"

namespace ingle {

// Scales as 16-bit patterns, codes as stored in planes (not negative; for looked-up kinds the index).
struct Unit {
  uint16_t scale = 0;
  uint16_t minimum = 0;    // already with the sign with which it is added
  uint8_t sub_scales[16];  // of super-blocks, in the order of their lines in the unit
  alignas(64) uint8_t codes[kSuper];
};

// Reads one GGML block of a plane kind.
void read_block(Kind kind, const uint8_t* block, Unit& unit);

}  // namespace ingle
