// The Walsh-Hadamard transform of the 4 numbers of a vector: what rotate.h needs in addition to
// vector.h.
#pragma once

#include "isa/neon/vector.h"

namespace bivlm {
namespace {

inline float32x4_t mix_lanes(float32x4_t v) {
  const float32x4_t pairs = {1, -1, 1, -1}, halves = {1, 1, -1, -1};
  v = vfmaq_f32(vrev64q_f32(v), v, pairs);
  return vfmaq_f32(vextq_f32(v, v, 2), v, halves);
}

}  // namespace
}  // namespace bivlm
