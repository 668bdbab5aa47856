// What this processor can do at most: reading memory bounds decode, multiplying bounds prefill.
#pragma once
#include <cstdint>

namespace ingle {

// GB/s of n_threads that read n_bytes together, over and over: from memory, or from caches where n_bytes fit them. Best
// of several passes, at most about half a second. Throws BackendError for less than 1 MiB or a number of threads
// outside 1..1024, std::bad_alloc where the memory is not there.
double read_bandwidth(int64_t n_bytes, int n_threads);

// GOP/s of n_threads, a multiplication and an addition being two, of the unit that prefill uses in this instruction
// set, with operands in registers or the L1 cache: tiles of bf16 (AMX), else dot products of 4-bit codes with bytes.
// About a fifth of a second. Throws BackendError for a number of threads outside 1..1024.
double multiply_rate(int n_threads);

}  // namespace ingle
