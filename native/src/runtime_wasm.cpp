// What the C++ library wants from a C library, for a module without one: memory, a comparison, a way to give up.
//
// Memory is a list of free blocks by rising address; the first that fits is cut. A model is a few hundred allocations
// that live long, so that is small and wastes nothing. New pages come from the host and never go back.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace {

// Before every allocation, and at the beginning of what is free. Sizes count it and are multiples of kUnit.
struct Block {
  size_t size;
  Block* next;  // of a free block
};
constexpr size_t kUnit = 16;
constexpr size_t kGrowth = size_t(1) << 20;  // the least that is asked of the host
constexpr size_t kPage = size_t(1) << 16;
constexpr size_t kMost = SIZE_MAX - 4 * kGrowth;

Block* first_free = nullptr;

constexpr size_t up(size_t x, size_t unit) { return (x + unit - 1) / unit * unit; }
char* end_of(Block* block) { return reinterpret_cast<char*>(block) + block->size; }

void release(Block* block) {
  Block *before = nullptr, *after = first_free;
  for (; after && after < block; after = after->next) before = after;
  block->next = after;
  (before ? before->next : first_free) = block;
  for (Block* b : {block, before})
    if (b && b->next && end_of(b) == reinterpret_cast<char*>(b->next)) {
      b->size += b->next->size;
      b->next = b->next->next;
    }
}

bool grow(size_t bytes) {
  const size_t pages = (bytes > kGrowth ? bytes + kPage - 1 : kGrowth) / kPage;
  const size_t at = __builtin_wasm_memory_grow(0, pages);
  if (at == SIZE_MAX) return false;
  auto* block = reinterpret_cast<Block*>(at * kPage);
  block->size = pages * kPage;
  release(block);
  return true;
}

// Cuts `size` bytes out of a free block so that what follows their header is aligned; nullptr where it is too small.
Block* cut(Block** link, size_t alignment, size_t size) {
  Block* whole = *link;
  const auto begin = reinterpret_cast<uintptr_t>(whole);
  const size_t skipped = up(begin + kUnit, alignment) - kUnit - begin;
  if (whole->size < skipped || whole->size - skipped < size) return nullptr;
  auto* block = reinterpret_cast<Block*>(begin + skipped);
  const size_t left = whole->size - skipped - size;
  Block* next = whole->next;
  if (left > 0) {
    auto* rest = reinterpret_cast<Block*>(begin + skipped + size);
    rest->size = left;
    rest->next = next;
    next = rest;
  }
  if (skipped > 0) {
    whole->size = skipped;
    whole->next = next;
  } else {
    *link = next;
  }
  block->size = size;
  return block;
}

}  // namespace

extern "C" {

void* aligned_alloc(size_t alignment, size_t bytes) {
  if (alignment < kUnit) alignment = kUnit;
  if (bytes > kMost || alignment > kMost - bytes) return nullptr;
  const size_t size = up(bytes, kUnit) + kUnit;
  do {
    for (Block** link = &first_free; *link; link = &(*link)->next)
      if (Block* block = cut(link, alignment, size)) return reinterpret_cast<char*>(block) + kUnit;
  } while (grow(size + alignment));
  return nullptr;
}

void* malloc(size_t bytes) { return aligned_alloc(kUnit, bytes); }

void* calloc(size_t n, size_t bytes) {
  if (__builtin_mul_overflow(n, bytes, &bytes)) return nullptr;
  void* p = malloc(bytes);
  return p ? std::memset(p, 0, bytes) : nullptr;
}

void free(void* p) {
  if (p) release(reinterpret_cast<Block*>(static_cast<char*>(p) - kUnit));
}

int posix_memalign(void** p, size_t alignment, size_t bytes) { return (*p = aligned_alloc(alignment, bytes)) ? 0 : 12; }

int strcmp(const char* a, const char* b) {
  for (; *a && *a == *b; ++a) ++b;
  return static_cast<unsigned char>(*a) - static_cast<unsigned char>(*b);
}

// The host calls this once, first.
void __wasm_call_ctors();
__attribute__((export_name("_initialize"))) void initialize() { __wasm_call_ctors(); }
int __cxa_atexit(void (*)(void*), void*, void*) { return 0; }  // a module has no end

void abort() { __builtin_trap(); }
void __abort_message(const char*, ...) { __builtin_trap(); }
}

// The kind of WebAssembly exception that carries those of C++.
__asm__(".globl __cpp_exception\n.tagtype __cpp_exception i32\n__cpp_exception:\n");

_LIBCPP_BEGIN_NAMESPACE_STD
void __libcpp_verbose_abort(const char*, ...) noexcept { __builtin_trap(); }
_LIBCPP_END_NAMESPACE_STD
