// The Walsh-Hadamard transform of the 16 numbers of a vector: what rotate.h needs in addition to
// vector.h.
#pragma once

#include "isa/avx512/vector.h"

namespace bivlm {
namespace {

inline __m512 mix_lanes(__m512 v) {
  const __m512 one = _mm512_set1_ps(1), minus = _mm512_set1_ps(-1);
  v = _mm512_fmadd_ps(v, _mm512_mask_mov_ps(one, 0xaaaa, minus), _mm512_permute_ps(v, 0xb1));
  v = _mm512_fmadd_ps(v, _mm512_mask_mov_ps(one, 0xcccc, minus), _mm512_permute_ps(v, 0x4e));
  v = _mm512_fmadd_ps(v, _mm512_mask_mov_ps(one, 0xf0f0, minus), _mm512_shuffle_f32x4(v, v, 0xb1));
  return _mm512_fmadd_ps(v, _mm512_mask_mov_ps(one, 0xff00, minus),
                         _mm512_shuffle_f32x4(v, v, 0x4e));
}

}  // namespace
}  // namespace bivlm
