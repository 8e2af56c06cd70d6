// The value of a trellis weight, one number at a time: the definition against which every kernel is
// tested, and the places of its streams.
#pragma once

#include "numbers.h"

namespace bivlm::trellis {
namespace {

constexpr int64_t kStrip = BIVLM_TRELLIS_STRIP, kRun = BIVLM_TRELLIS_RUN,
                  kLead = BIVLM_TRELLIS_LEAD;

inline int64_t strips_of(const bivlm_trellis& w) { return ceil_div(w.rows, kStrip); }
inline int64_t runs_of(const bivlm_trellis& w) { return ceil_div(w.columns, kRun); }
inline int64_t run_columns(const bivlm_trellis& w, int64_t run) {
  return smaller(kRun, w.columns - run * kRun);
}

// Rows of a strip that its stream holds
inline int64_t held_rows(const bivlm_trellis& w, int64_t strip) {
  return smaller(kStrip, round_up(w.rows - strip * kStrip, BIVLM_TRELLIS_ROWS));
}

// The bits of one row: the sum of the bits of all columns
inline int64_t row_bits(const bivlm_trellis& w) {
  int64_t sum = 0;
  for (int64_t run = 0; run < runs_of(w); ++run) sum += w.bits[run] * run_columns(w, run);
  return sum;
}

inline int64_t strip_bytes(int64_t bits_of_row, int64_t held) {
  return kLead + bits_of_row * held / 8;
}

// The window that ends before bit `end` of a stream
inline uint32_t window_at(const uint8_t* stream, int64_t end, int window) {
  uint32_t value = 0;
  for (int64_t bit = end - window; bit < end; ++bit)
    value |= uint32_t(stream[bit / 8] >> bit % 8 & 1) << (bit - end + window);
  return value;
}

// Columns [first, first + count) of row `row` of a strip, all with `bits` bits per weight;
// `before`: the bits of a row in the columns before them
inline void define_values(const bivlm_trellis& w, const uint8_t* stream, int64_t held, int64_t row,
                          int64_t before, int bits, int64_t count, int8_t* out) {
  for (int64_t j = 0; j < count; ++j) {
    const int64_t begin = 8 * kLead + (before + j * bits) * held;
    out[j] = bits ? w.table[(bits - 1) * w.table_stride +
                            window_at(stream, begin + (row + 1) * bits, w.window)]
                  : int8_t(0);
  }
}

}  // namespace
}  // namespace bivlm::trellis
