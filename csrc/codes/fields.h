// The common part of all kinds of weights: a code for each weight, and scales by row and group.
#pragma once

#include "numbers.h"

namespace bivlm::codes {
namespace {

// The code of weight (row, column).
inline int code_at(const bivlm_weight& w, int64_t row, int64_t column) {
  const uint8_t* stream = w.codes + row * w.row_bytes;
  if (w.group_bytes) {
    stream += column / w.group_size * w.group_bytes + 2;
    column %= w.group_size;
  }
  const int64_t bit = column * w.bits;
  int value = stream[bit / 8] >> bit % 8;
  if (bit % 8 + w.bits > 8) value |= stream[bit / 8 + 1] << (8 - bit % 8);
  return value & ((1 << w.bits) - 1);
}

// Number i, times its unit where it has one
inline float number_at(const bivlm_numbers& numbers, int64_t i, int64_t unit) {
  switch (numbers.dtype) {
    case BIVLM_NUMBERS_FLOAT32:
      return load<float>(numbers.values, i);
    case BIVLM_NUMBERS_FLOAT16:
      return float_of_half(load<uint16_t>(numbers.values, i));
    case BIVLM_NUMBERS_UINT8:
      return float(load<uint8_t>(numbers.values, i)) *
             float_of_half(load<uint16_t>(numbers.unit, unit));
    case BIVLM_NUMBERS_INT8:
      return float(load<int8_t>(numbers.values, i)) *
             float_of_half(load<uint16_t>(numbers.unit, unit));
    default:
      return 1;
  }
}

// The number of (row, group) times the weight's scale.
inline float scale_at(const bivlm_weight& w, int64_t row, int64_t group) {
  if (w.group_bytes)
    return float_of_half(load<uint16_t>(w.codes + row * w.row_bytes + group * w.group_bytes, 0)) *
           w.scale;
  return number_at(w.scales, row * w.groups + group, row) * w.scale;
}

// Whether the numbers of the groups can be read
inline bool known_numbers(const bivlm_numbers& numbers) {
  if (numbers.dtype < BIVLM_NUMBERS_NONE || numbers.dtype > BIVLM_NUMBERS_INT8) return false;
  return (numbers.dtype == BIVLM_NUMBERS_NONE || numbers.values) &&
         (numbers.dtype < BIVLM_NUMBERS_UINT8 || numbers.unit);
}

}  // namespace
}  // namespace bivlm::codes
