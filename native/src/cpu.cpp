// Which instruction sets this CPU and this operating system allow, and the choice among them.
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

// Names from slow to fast; INGLE_ISA takes one of them, "neon" counting as the top on ARM.
constexpr std::string_view kNames[] = {"portable", "avx2", "avxvnni", "avx512", "amx", "neon"};

#if defined(__x86_64__) || defined(_M_X64)

struct Registers {
  uint32_t a = 0, b = 0, c = 0, d = 0;
};

Registers cpuid(uint32_t leaf, uint32_t sub_leaf) {
  Registers r;
  __get_cpuid_count(leaf, sub_leaf, &r.a, &r.b, &r.c, &r.d);  // leaves zeros for leaves that do not exist
  return r;
}

bool bit(uint32_t word, int i) { return (word >> i) & 1; }

// The registers that the operating system saves. Using others would be lost, or forbidden, at a thread switch.
uint64_t saved_state() {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return uint64_t(high) << 32 | low;
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

// Index into kNames. `limit`: the highest that is wanted (permission for tiles is not asked without need).
int best(int limit) {
  const Registers one = cpuid(1, 0);
  const bool os_saves = bit(one.c, 27);
  const uint64_t state = os_saves ? saved_state() : 0;
  const Registers seven = cpuid(7, 0);
  const Registers seven_one = cpuid(7, 1);
  const bool avx2 = (state & 0x6) == 0x6 && bit(one.c, 12) && bit(one.c, 29) && bit(seven.b, 5);  // FMA, F16C, AVX2
  if (!avx2) return 0;
  const bool avx512 = (state & 0xe6) == 0xe6 && bit(seven.b, 16) && bit(seven.b, 17) && bit(seven.b, 30) &&
                      bit(seven.b, 31) && bit(seven.c, 11);  // F, DQ, BW, VL, VNNI
  if (!avx512) return bit(seven_one.a, 4) ? 2 : 1;
  const bool amx = (state & 0x60000) == 0x60000 && bit(seven.d, 24) && bit(seven.d, 22) && bit(seven_one.a, 5);
  return amx && limit >= 4 && tiles_permitted() ? 4 : 3;
}

const Kernels* kernels_of(int level) {
  switch (level) {
    case 1: return kernels_avx2();
    case 2: return kernels_avxvnni();
    case 3: return kernels_avx512();
    case 4: return kernels_amx();
    default: return kernels_portable();
  }
}

#elif defined(__aarch64__)

int best(int) {
#if defined(__linux__)
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  return getauxval(AT_HWCAP) & kDotProduct ? 5 : 0;
#elif defined(__APPLE__)
  return 5;  // every Apple chip with 64 bits and macOS has it
#else
  return 0;
#endif
}

const Kernels* kernels_of(int level) { return level == 5 ? kernels_neon() : kernels_portable(); }

#else

int best(int) { return 0; }
const Kernels* kernels_of(int) { return kernels_portable(); }

#endif

int wanted_level() {
  constexpr int top = int(std::size(kNames)) - 1;
  const char* name = std::getenv("INGLE_ISA");
  if (!name || !*name) return top;
  for (int i = 0; i <= top; ++i) {
    if (kNames[i] == name) return i;
  }
  throw std::invalid_argument("Expected INGLE_ISA to be portable, avx2, avxvnni, avx512, amx or neon, but got \"" +
                              std::string(name) + "\"; correct it or unset it.");
}

const Kernels* choose() {
  const int wanted = wanted_level();
  const int have = best(wanted);
  int level = wanted < have ? wanted : have;
#if defined(__x86_64__) || defined(_M_X64)
  // AVX-VNNI and AVX-512 are no subsets of each other: a CPU may have the second alone.
  if (level == 2 && !bit(cpuid(7, 1).a, 4)) level = 1;
#elif defined(__aarch64__)
  if (level < 5) level = 0;
#endif
  return kernels_of(level);
}

}  // namespace

const Kernels& kernels() {
  static const Kernels* const chosen = choose();  // a throw leaves it undecided, so that every caller hears of it
  return *chosen;
}

const char* isa_name() { return kernels().name; }

const VectorOps& vector_ops() { return *kernels().vectors; }

}  // namespace ingle
