// The Walsh-Hadamard transform of the 8 numbers of a vector: what rotate.h needs in addition to
// vector.h.
#pragma once

#include "isa/avx2/vector.h"

namespace bivlm {
namespace {

inline __m256 mix_lanes(__m256 v) {
  v = _mm256_fmadd_ps(v, _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1), _mm256_permute_ps(v, 0xb1));
  v = _mm256_fmadd_ps(v, _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1), _mm256_permute_ps(v, 0x4e));
  return _mm256_fmadd_ps(v, _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1),
                         _mm256_permute2f128_ps(v, v, 0x01));
}

}  // namespace
}  // namespace bivlm
