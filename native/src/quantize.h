// Quantising rows of float32 to the GGUF types that need a search for good scales: Q2_K to Q6_K and IQ4_NL.
//
// Plain portable C++20 without dependencies. The result depends on the input alone where the compiler neither contracts
// nor reorders floating-point operations.

#pragma once

#include <cstdint>

namespace ingle {

// Quantise x, float32[n][k] row after row, to the GGML type with this id, into out, uint8[n][bytes of a row].
// Returns false, and writes nothing, when the type is not one of the above or k is not a multiple of its block
// (256 weights; 32 for IQ4_NL). Every x must be finite. Runs on the calling thread; rows are independent.
bool quantize_rows(int ggml_type, const float* x, std::int64_t n, std::int64_t k, std::uint8_t* out);

}  // namespace ingle
