// Vectors of numbers in the dtypes of the interface.
#pragma once

#include "loops.h"
#include "numbers.h"

namespace bivlm {
namespace {

// kLanes numbers from element i on
BIVLM_INLINE inline Vector::Floats read_as(const void* array, int64_t i, int dtype) {
  const char* place = static_cast<const char*>(array) + i * element_bytes(dtype);
  if (dtype == BIVLM_BFLOAT16) return Vector::read_bfloats(place);
  if (dtype == BIVLM_FLOAT16) return Vector::read_halves(place);
  return Vector::read(reinterpret_cast<const float*>(place));
}

BIVLM_INLINE inline void write_as(void* array, int64_t i, Vector::Floats v, int dtype) {
  char* place = static_cast<char*>(array) + i * element_bytes(dtype);
  if (dtype == BIVLM_FLOAT32) Vector::write(reinterpret_cast<float*>(place), v);
  if (dtype == BIVLM_BFLOAT16) Vector::write_bfloats(place, v);
  if (dtype == BIVLM_FLOAT16) Vector::write_halves(place, v);
}

}  // namespace
}  // namespace bivlm
