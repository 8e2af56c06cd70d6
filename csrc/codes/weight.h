// The value of a packed weight of any kind, one number at a time: the definition in float32 against
// which every kernel is tested; and the conditions for a valid weight.
#pragma once

#include "codes/levels.h"
#include "codes/plane.h"
#include "codes/uniform.h"

namespace bivlm::codes {
namespace {

// The value of a code, without tail and column scale
inline float value_of(const bivlm_weight& w, int64_t row, int64_t group, int code) {
  switch (w.kind) {
    case BIVLM_KIND_LEVELS:
      return level_at(w, row, group, code);
    case BIVLM_KIND_UNIFORM:
      return grid_at(w, row, group, code);
    default:
      return sign_at(w, row, group, code);
  }
}

inline int check_kind(const bivlm_weight& w) {
  switch (w.kind) {
    case BIVLM_KIND_LEVELS:
      return check_levels(w);
    case BIVLM_KIND_UNIFORM:
      return check_uniform(w);
    case BIVLM_KIND_PLANE:
      return check_plane(w);
    default:
      return BIVLM_ERROR_WEIGHT;
  }
}

// 0, or why the library does not support the weight
inline int check(const bivlm_weight* weight) {
  if (!weight || weight->bits < 1 || weight->bits > 8) return BIVLM_ERROR_WEIGHT;
  const bivlm_weight& w = *weight;
  if (w.planes && w.kind != BIVLM_KIND_PLANE) return BIVLM_ERROR_WEIGHT;
  if (w.rows < 0 || w.columns < 1 || w.group_size < 1 ||
      w.groups != ceil_div(w.columns, w.group_size))
    return BIVLM_ERROR_SHAPE;
  const int64_t needed = w.group_bytes ? w.groups * w.group_bytes : ceil_div(w.columns * w.bits, 8);
  if (w.row_bytes < needed) return BIVLM_ERROR_SHAPE;
  return w.rows && !w.codes ? BIVLM_ERROR_WEIGHT : check_kind(w);
}

}  // namespace
}  // namespace bivlm::codes
