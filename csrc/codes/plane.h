// The kind `plane`: weight = +-scale, + where the bit is 1. The scales may lie between the signs;
// planes.h has what else such a weight may have.
#pragma once

#include "codes/planes.h"

namespace bivlm::codes {
namespace {

inline float sign_at(const bivlm_weight& w, int64_t row, int64_t group, int code) {
  return code ? scale_at(w, row, group) : -scale_at(w, row, group);
}

inline int check_plane(const bivlm_weight& w) {
  if (w.bits != 1 || w.tail_start || w.column_scale || (w.planes && w.group_bytes))
    return BIVLM_ERROR_WEIGHT;
  if (w.planes) return check_planes(w);
  if (!w.group_bytes) return known_numbers(w.scales) ? 0 : BIVLM_ERROR_WEIGHT;
  return w.group_size % 8 || w.columns % w.group_size || w.group_bytes < 2 + w.group_size / 8
             ? BIVLM_ERROR_SHAPE
             : 0;
}

}  // namespace
}  // namespace bivlm::codes
