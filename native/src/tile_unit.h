// The matrix unit (AMX): tiles of 16 rows of 64 bytes. Included where the flags allow it.
#pragma once
#include <cstdint>

// The compiler's tile intrinsics do not say that they touch memory (GCC 12), so stores before them may be lost.
// `step`: bytes from row to row.
#define INGLE_TILE_LOAD(tile, address, step) \
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm" #tile : : "r"(address), "r"(int64_t(step)) : "memory")
#define INGLE_TILE_STORE(tile, address, step) \
  __asm__ volatile("tilestored %%tmm" #tile ", (%0,%1,1)" : : "r"(address), "r"(int64_t(step)) : "memory")
#define INGLE_TILE_ZERO(tile) __asm__ volatile("tilezero %%tmm" #tile : :)
#define INGLE_TILE_MULTIPLY(sum, a, b) __asm__ volatile("tdpbf16ps %%tmm" #b ", %%tmm" #a ", %%tmm" #sum : :)

namespace ingle {
namespace {

// While it lives, this thread has eight tiles.
struct UseOfTiles {
  struct alignas(64) Config {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  UseOfTiles() {
    const Config config;
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
  }
  ~UseOfTiles() { __asm__ volatile("tilerelease" : :); }
};

}  // namespace
}  // namespace ingle
