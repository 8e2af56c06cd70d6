// The kind `uniform`: weight = (code - zero) * scale, times a scale of the column if there is one.
#pragma once

#include "codes/fields.h"

namespace bivlm::codes {
namespace {

inline float zero_at(const bivlm_weight& w, int64_t row, int64_t group) {
  const int64_t i = row * w.groups + group;
  if (w.zero_kind == BIVLM_ZERO_CODE) return load<uint8_t>(w.zeros, i);
  if (w.zero_kind == BIVLM_ZERO_FREE) return float_of_half(load<uint16_t>(w.zeros, i));
  return float(w.alphabet - 1) * 0.5f;
}

// The value of a code, without the column's scale
inline float grid_at(const bivlm_weight& w, int64_t row, int64_t group, int code) {
  return (float(code) - zero_at(w, row, group)) * scale_at(w, row, group);
}

inline int check_uniform(const bivlm_weight& w) {
  if (w.alphabet < 2 || w.alphabet > 1 << w.bits || !known_numbers(w.scales))
    return BIVLM_ERROR_WEIGHT;
  if (w.zero_kind < BIVLM_ZERO_MIDDLE || w.zero_kind > BIVLM_ZERO_FREE || (w.zero_kind && !w.zeros))
    return BIVLM_ERROR_WEIGHT;
  return w.group_bytes || w.tail_start ? BIVLM_ERROR_WEIGHT : 0;
}

}  // namespace
}  // namespace bivlm::codes
