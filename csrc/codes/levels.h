// The kind `levels`: weight = scale * table[code], and a tail of weights that are stored
// individually.
#pragma once

#include "codes/fields.h"

namespace bivlm::codes {
namespace {

// Levels that a table stores, and the level of a code; 0 for a code beyond the alphabet.
inline int64_t stored_levels(const bivlm_weight& w) {
  return w.symmetric ? w.alphabet / 2 : w.alphabet;
}

inline float level_at(const bivlm_weight& w, int64_t row, int64_t group, int code) {
  if (code >= w.alphabet) return 0;
  const int64_t count = stored_levels(w),
                table = ((w.table_rows > 1 ? row : 0) * w.groups + group) * count;
  if (!w.symmetric) return w.scale * float_of_half(load<uint16_t>(w.levels, table + code));
  const int64_t magnitude = code < count ? count - 1 - code : code - count;
  const float level = w.scale * float_of_half(load<uint16_t>(w.levels, table + magnitude));
  return code < count ? -level : level;
}

// The tail: how many entries a row has, entry e of all, its value, and the dense code that stands
// in its place. The value is either its own or that of its code.
struct TailEntry {
  int64_t column;
  int code;
};

inline int64_t tail_begin(const bivlm_weight& w, int64_t row) {
  return w.tail_start ? load<int64_t>(w.tail_start, row) : 0;
}
inline int64_t tail_end(const bivlm_weight& w, int64_t row) {
  return w.tail_start ? load<int64_t>(w.tail_start, row + 1) : 0;
}

inline TailEntry tail_entry(const bivlm_weight& w, int64_t e) {
  const uint32_t entry =
      w.tail_wide ? load<uint32_t>(w.tail_entries, e) : load<uint16_t>(w.tail_entries, e);
  return {int64_t(entry >> 2), int(entry & 3)};
}

inline float own_value(const bivlm_weight& w, int64_t e) {
  return w.scale * float_of_half(load<uint16_t>(w.tail_values, e));
}

inline float tail_value(const bivlm_weight& w, int64_t row, int64_t e, int code) {
  if (w.tail_values) return own_value(w, e);
  return w.scale * float_of_half(load<uint16_t>(w.tail_scale, row)) *
         load<float>(w.tail_levels, code);
}

inline int dense_code(const bivlm_weight& w, int tail_code) {
  return w.alphabet >= 4 ? tail_code : tail_code >> 1;
}

inline int check_levels(const bivlm_weight& w) {
  if (w.bits > 4 || !w.levels || (w.table_rows != 1 && w.table_rows != w.rows))
    return BIVLM_ERROR_WEIGHT;
  if (w.alphabet < 2 || w.alphabet > 1 << w.bits || (w.symmetric && w.alphabet % 2))
    return BIVLM_ERROR_WEIGHT;
  if (w.tail_start && ((!w.tail_values && (!w.tail_levels || !w.tail_scale)) ||
                       (!w.tail_entries && load<int64_t>(w.tail_start, w.rows) > 0)))
    return BIVLM_ERROR_WEIGHT;
  return w.group_bytes || w.column_scale ? BIVLM_ERROR_WEIGHT : 0;
}

}  // namespace
}  // namespace bivlm::codes
