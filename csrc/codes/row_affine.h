// The numbers of a row of the kinds `uniform` and `plane`: factors and offsets, or tables of them.
#pragma once

#include "codes/row.h"

namespace bivlm::codes {
namespace {

inline Vector::Floats read_numbers(const bivlm_numbers& numbers, int64_t i) {
  const char* place = static_cast<const char*>(numbers.values);
  switch (numbers.dtype) {
    case BIVLM_NUMBERS_FLOAT32:
      return Vector::read(reinterpret_cast<const float*>(place + 4 * i));
    case BIVLM_NUMBERS_FLOAT16:
      return Vector::read_halves(place + 2 * i);
    case BIVLM_NUMBERS_UINT8:
      return Vector::read_unsigned(place + i);
    default:
      return Vector::read_signed(place + i);
  }
}

// scale_at of every group of row i
inline void set_scales(const bivlm_weight& w, int64_t i, const Row& row, float* out) {
  int64_t g = 0;
  if (w.group_bytes || w.scales.dtype) {
    const bivlm_numbers halves = {row.halves, BIVLM_NUMBERS_FLOAT16, nullptr};
    const bivlm_numbers& numbers = w.group_bytes ? halves : w.scales;
    const int64_t first = w.group_bytes ? 0 : i * w.groups;
    const Vector::Floats unit = Vector::set(numbers.dtype > BIVLM_NUMBERS_FLOAT16
                                                ? float_of_half(load<uint16_t>(numbers.unit, i))
                                                : 1.0f),
                         scale = Vector::set(w.scale);
    for (; g + Vector::kLanes <= w.groups; g += Vector::kLanes) {
      Vector::write(out + g,
                    Vector::mul(Vector::mul(read_numbers(numbers, first + g), unit), scale));
    }
  }
  for (; g < w.groups; ++g) out[g] = scale_at(w, i, g);
}

// zero_at of every group of row i
inline void set_zeros(const bivlm_weight& w, int64_t i, float* out) {
  int64_t g = 0;
  if (w.zero_kind) {
    const bivlm_numbers zeros = {
        w.zeros, w.zero_kind == BIVLM_ZERO_CODE ? BIVLM_NUMBERS_UINT8 : BIVLM_NUMBERS_FLOAT16,
        nullptr};
    for (; g + Vector::kLanes <= w.groups; g += Vector::kLanes)
      Vector::write(out + g, read_numbers(zeros, i * w.groups + g));
  }
  for (; g < w.groups; ++g) out[g] = zero_at(w, i, g);
}

// Tables of an affine weight: (code - zero) * scale, of signs -scale and scale
inline void set_affine_tables(const bivlm_weight& w, int64_t i, const Plan& plan, Row& row) {
  set_scales(w, i, row, row.factors);
  if (w.kind == BIVLM_KIND_UNIFORM) set_zeros(w, i, row.offsets);
  alignas(64) float codes[2 * kTable];
  for (int64_t k = 0; k < 2 * kTable; ++k)
    codes[k] = float(code_of_entry(w.bits, k) * (w.kind == BIVLM_KIND_PLANE ? 2 : 1));
  for (int64_t g = 0; g < w.groups; ++g) {
    const Vector::Floats zero = Vector::set(w.kind == BIVLM_KIND_PLANE ? 1.0f : row.offsets[g]),
                         scale = Vector::set(row.factors[g]);
    for (int64_t k = 0; k < plan.table_floats; k += Vector::kLanes) {
      Vector::write(row.tables + g * plan.table_floats + k,
                    Vector::mul(Vector::sub(Vector::read(codes + k), zero), scale));
    }
  }
}

// Factors and offsets of every group of row i
inline void set_affine_factors(const bivlm_weight& w, int64_t i, Row& row) {
  set_scales(w, i, row, row.factors);
  if (w.kind == BIVLM_KIND_UNIFORM) set_zeros(w, i, row.offsets);
  const bool plane = w.kind == BIVLM_KIND_PLANE;
  for (int64_t g = 0; g < w.groups; ++g) {
    const float scale = row.factors[g];
    row.offsets[g] = plane ? -scale : -(scale * row.offsets[g]);
    row.factors[g] = plane ? 2 * scale : scale;
  }
}

}  // namespace
}  // namespace bivlm::codes
