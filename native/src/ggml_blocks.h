// Between the blocks of a GGML tensor and the panels of planes.h: into memory at loading, and back for one row.
// Nothing is rounded: read_row gives bit for bit what dequantising the blocks gives.
#pragma once
#include <cstdint>

#include "planes.h"

namespace ingle {

// Fills one panel from 16 rows of row_bytes in the GGML layout.
void write_panel(Kind kind, const uint8_t* rows, size_t row_bytes, uint8_t* panel);

// Row `row` of 16 of a panel as floats: out [k].
void read_row(Kind kind, const uint8_t* panel, int row, int64_t k, float* out);

}  // namespace ingle
