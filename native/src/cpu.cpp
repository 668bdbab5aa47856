// Which instruction sets this processor and this operating system allow, and the choice among them.
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <string_view>

#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace ingle {
namespace {

#if defined(__x86_64__) || defined(_M_X64)

enum Register { kA, kB, kC, kD };

// Bits of a register after CPUID; none of a leaf that does not exist.
bool cpuid(uint32_t leaf, uint32_t sub_leaf, Register in, uint32_t bits) {
  uint32_t r[4] = {};
  __get_cpuid_count(leaf, sub_leaf, &r[kA], &r[kB], &r[kC], &r[kD]);
  return (r[in] & bits) == bits;
}

// Whether the operating system saves these registers. Using others would be lost, or forbidden, at a thread switch.
bool saved(uint32_t registers) {
  if (!cpuid(1, 0, kC, 1u << 27)) return false;
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (low & registers) == registers;
}

// Linux gives the 8 KiB of tile registers only to processes that ask, once, before the first tile instruction.
bool tiles_permitted() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool has_avx2() { return saved(0x6) && cpuid(1, 0, kC, 1u << 12 | 1u << 29) && cpuid(7, 0, kB, 1u << 5); }  // FMA, F16C
bool has_avxvnni() { return has_avx2() && cpuid(7, 1, kA, 1u << 4); }
bool has_avx512() {  // F, DQ, BW, VL, VNNI
  return has_avx2() && saved(0xe6) && cpuid(7, 0, kB, 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31) &&
         cpuid(7, 0, kC, 1u << 11);
}
bool has_amx() {  // tiles, bf16 in tiles and in vectors
  return has_avx512() && saved(0x60000) && cpuid(7, 0, kD, 1u << 24 | 1u << 22) && cpuid(7, 1, kA, 1u << 5) &&
         tiles_permitted();
}

#elif defined(__aarch64__)

bool has_neon() {
#if defined(__linux__)
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  return getauxval(AT_HWCAP) & kDotProduct;
#elif defined(__APPLE__)
  return true;  // every such chip with 64 bits has it
#else
  return false;
#endif
}

#endif

// From slow to fast. Those of other processors are known by name alone.
struct Set {
  std::string_view name;
  bool (*works)() = nullptr;
  const Kernels* (*kernels)() = nullptr;
};
constexpr Set kSets[] = {
    {"portable", [] { return true; }, kernels_portable},
#if defined(__x86_64__) || defined(_M_X64)
    {"avx2", has_avx2, kernels_avx2},
    {"avxvnni", has_avxvnni, kernels_avxvnni},
    {"avx512", has_avx512, kernels_avx512},
    {"amx", has_amx, kernels_amx},
    {"neon"},
#elif defined(__aarch64__)
    {"avx2"},
    {"avxvnni"},
    {"avx512"},
    {"amx"},
    {"neon", has_neon, kernels_neon},
#endif
};

// The fastest that works of those up to INGLE_ISA.
const Kernels* choose() {
  const char* limit = std::getenv("INGLE_ISA");
  int last = int(std::size(kSets)) - 1;
  if (limit && *limit) {
    while (last >= 0 && kSets[last].name != limit) --last;
    if (last < 0) {
      std::string names;
      for (const Set& set : kSets) names.append(names.empty() ? "" : ", ").append(set.name);
      throw std::invalid_argument("Expected INGLE_ISA to be one of " + names + ", but got \"" + limit +
                                  "\"; correct it or unset it.");
    }
  }
  while (!kSets[last].works || !kSets[last].works()) --last;
  return kSets[last].kernels();
}

}  // namespace

const Kernels& kernels() {
  static const Kernels* const chosen = choose();  // a throw leaves it undecided, so that every caller hears of it
  return *chosen;
}

const char* isa_name() { return kernels().name; }

const VectorOps& vector_ops() { return *kernels().vectors; }

}  // namespace ingle
