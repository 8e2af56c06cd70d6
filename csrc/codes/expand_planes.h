// A row with planes (bivlm_planes) as float32. Every 64 columns the planes' bits become codes.
#pragma once

#include "codes/rows.h"

namespace bivlm::codes {
namespace {

// The weights of kLanes columns from their codes and their group's tables
BIVLM_INLINE inline Vector::Floats plane_weights(const bivlm_weight& w, const PlaneTerms& terms,
                                                 const float* tables, int64_t column,
                                                 Vector::Ints codes) {
  using V = Vector;
  V::Floats sum = V::set(-0.0f);
  for (int64_t t = 0; t < terms.count; ++t, tables += kPlaneCodes) {
    const V::Floats value = V::lookup<4>(V::table(tables), codes);
    const char* scales = scales_of_term(w, terms.of[t], column);
    sum = V::add(sum, scales ? V::mul(value, V::read_halves(scales)) : value);
  }
  return sum;
}

// One column's
inline float plane_weight(const bivlm_weight& w, const PlaneTerms& terms, const float* tables,
                          int64_t column, int code) {
  float sum = -0.0f;
  for (int64_t t = 0; t < terms.count; ++t) {
    const float value = tables[t * kPlaneCodes + code];
    const char* scales = scales_of_term(w, terms.of[t], column);
    sum += scales ? value * float_of_half(load<uint16_t>(scales, 0)) : value;
  }
  return sum;
}

// The codes of a row's tail, one to a byte, from the first entry on: their upper seven bits
inline const uint8_t* tail_bits_of_row(const bivlm_weight& w, int64_t i, uint8_t* out) {
  const bivlm_planes& p = *w.planes;
  const int64_t all = load<int64_t>(p.tail_start, w.rows), end = load<int64_t>(p.tail_start, i + 1),
                begin = load<int64_t>(p.tail_start, i);
  const uint8_t* limit = p.tail_bits + ceil_div(7 * all, 8);
  alignas(64) uint8_t copy[Vector::Decoder::kReads];
  const Vector::Decoder decoder(7);
  for (int64_t e = begin / 8 * 8, k = 0; e < end; e += 64, k += 64) {
    const uint8_t* place = p.tail_bits + e / 8 * 7;
    decoder.decode(readable(place, limit, Vector::Decoder::kReads, copy), out + k);
  }
  return out + begin % 8;
}

template <bool kPlain>
BIVLM_INLINE inline void store_codes(const PlanesRow& row, int64_t c, uint8_t* out) {
  Vector::Ints codes[64 / Vector::kBytes];
  plane_codes<kPlain>(row, row, c, codes);
  BIVLM_UNROLL
  for (int v = 0; v < int(64 / Vector::kBytes); ++v)
    Vector::store_bytes(out + v * Vector::kBytes, codes[v]);
}

// All columns; in vectors where 64 of them lie in one group
template <bool kPlain, bool kScaled>
inline void expand_codes(const bivlm_weight& w, const Row& row) {
  using V = Vector;
  const PlaneTerms terms(*w.planes);
  const bool steady = w.groups == 1 || w.group_size % 64 == 0;
  alignas(64) uint8_t codes[64];
  const float* tables = row.tables;
  for (int64_t c = 0, last = w.group_size; 64 * c < w.columns; ++c) {
    store_codes<kPlain>(row.planes, c, codes);
    if (!steady) {
      for (int64_t j = 64 * c; j < smaller(w.columns, 64 * c + 64); ++j)
        row.dense[j] = plane_weight(w, terms, row.tables + j / w.group_size * terms.floats(), j,
                                    codes[j % 64]);
      continue;
    }
    if (64 * c == last) tables += terms.floats(), last += w.group_size;
    BIVLM_UNROLL
    for (int k = 0; k < 64; k += int(V::kLanes)) {
      const int64_t column = 64 * c + k;
      const V::Ints code = V::index(codes + k);
      V::write(row.dense + column, kScaled ? plane_weights(w, terms, tables, column, code)
                                           : V::lookup<4>(V::table(tables), code));
    }
  }
}

template <bool kPlain>
inline void expand_codes_of(const bivlm_weight& w, const Row& row) {
  return w.planes->column_scales ? expand_codes<kPlain, true>(w, row)
                                 : expand_codes<kPlain, false>(w, row);
}

inline void put_planes_tail(const bivlm_weight& w, int64_t i, const Row& row) {
  const uint8_t* upper = tail_bits_of_row(w, i, row.planes.upper);
  const int64_t begin = load<int64_t>(w.planes->tail_start, i);
  const TailScale scale(w, i);
  float values[256];
  for (int code = 0; code < 256; ++code) values[code] = scale.value(code);
  const uint8_t* signs = row.planes.signs;
  const auto value = [&](int64_t e, uint64_t column) BIVLM_INLINE {
    return values[2 * upper[e - begin] +
                  (load<uint64_t>(signs, int64_t(column / 64)) >> column % 64 & 1)];
  };
  put_tail(*w.planes, i, value, row.dense);
}

// Row i into row.dense, tail and column scales included
inline void expand_planes(const bivlm_weight& w, int64_t i, Row& row) {
  set_plane_tables(w, i, row.planes, row.tables);
  set_plane_streams(w, i, row.planes);
  if (only_signs(*w.planes)) {
    expand_codes_of<true>(w, row);
  } else {
    expand_codes_of<false>(w, row);
  }
  if (w.planes->tail_start) put_planes_tail(w, i, row);
}

}  // namespace
}  // namespace bivlm::codes
