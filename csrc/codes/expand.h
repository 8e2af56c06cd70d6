// A row as float32, in order: for bivlm_unpack, and for products with weights that no faster path
// supports.
#pragma once

#include "codes/expand_planes.h"

namespace bivlm::codes {
namespace {

constexpr int64_t kDecoded = 64;  // codes that are decoded at a time

inline Plan dense_plan(const bivlm_weight& w) {
  Plan plan;
  plan.path = Path::kDense;
  plan.table_floats = w.planes ? PlaneTerms(*w.planes).floats() : w.bits <= 4 ? kTable : 0;
  return plan;
}

inline float one_value(const bivlm_weight& w, const Row& row, int64_t group, int code) {
  return w.bits <= 4 ? row.tables[group * kTable + code]
                     : (float(code) - row.offsets[group]) * row.factors[group];
}

// Up to 64 columns from `first` on. In full vectors where a vector lies within one group; `out` has
// room for whole blocks.
inline void expand_block(const bivlm_weight& w, const Row& row, int64_t first, const uint8_t* codes,
                         float* out) {
  if (w.groups > 1 && w.group_size % Vector::kLanes) {
    const int64_t end = smaller(w.columns, first + kDecoded);
    for (int64_t j = first; j < end; ++j)
      out[j] = one_value(w, row, j / w.group_size, codes[j - first]);
    return;
  }
  for (int64_t k = 0; k < kDecoded;) {
    const int64_t group = smaller(w.groups - 1, (first + k) / w.group_size);
    const int64_t end =
        group == w.groups - 1 ? kDecoded : smaller(kDecoded, (group + 1) * w.group_size - first);
    if (w.bits <= 4) {
      const Vector::Table table = Vector::table(row.tables + group * kTable);
      for (; k < end; k += Vector::kLanes)
        Vector::write(out + first + k, Vector::lookup<4>(table, Vector::index(codes + k)));
    } else {
      const Vector::Floats zero = Vector::set(row.offsets[group]),
                           scale = Vector::set(row.factors[group]);
      for (; k < end; k += Vector::kLanes) {
        Vector::write(
            out + first + k,
            Vector::mul(Vector::sub(Vector::convert(Vector::index(codes + k)), zero), scale));
      }
    }
  }
}

// Row i into row.dense, the tail included, the column scales not
inline void expand(const bivlm_weight& w, int64_t i, const Plan& plan, bool first, Row& row) {
  if (w.planes) return expand_planes(w, i, row);
  set_codes(w, i, row);
  const bool shared = w.kind == BIVLM_KIND_LEVELS && w.table_rows == 1;
  if (w.bits <= 4) {
    if (first || !shared) set_tables(w, i, plan, row);
  } else {
    set_scales(w, i, row, row.factors);
    set_zeros(w, i, row.offsets);
  }
  alignas(64) uint8_t codes[kDecoded];
  alignas(64) uint8_t copy[Vector::Decoder::kReads];
  const Vector::Decoder decoder(w.bits);
  const uint8_t* place = row.codes;
  for (int64_t j = 0; j < w.columns; j += kDecoded, place += 8 * w.bits) {
    decoder.decode(readable(place, row.limit, Vector::Decoder::kReads, copy), codes);
    expand_block(w, row, j, codes, row.dense);
  }
  for (int64_t e = tail_begin(w, i), end = tail_end(w, i); e < end; ++e) {
    const TailEntry entry = tail_entry(w, e);
    row.dense[entry.column] = tail_value(w, i, e, entry.code);
  }
}

inline int64_t unpack_scratch(const bivlm_weight& w) { return row_layout(w, dense_plan(w)).total; }

// A row of numbers as `dtype`, from element `first` of the output on
inline void write_row(const bivlm_weight& w, const float* values, void* out, int64_t first,
                      int dtype) {
  int64_t j = 0;
  for (; j + Vector::kLanes <= w.columns; j += Vector::kLanes) {
    Vector::Floats v = Vector::read(values + j);
    if (w.column_scale)
      v = Vector::mul(v,
                      Vector::read_halves(reinterpret_cast<const char*>(w.column_scale) + 2 * j));
    write_as(out, first + j, v, dtype);
  }
  for (; j < w.columns; ++j) {
    const float value =
        w.column_scale ? values[j] * float_of_half(load<uint16_t>(w.column_scale, j)) : values[j];
    store_as(out, first + j, value, dtype);
  }
}

inline void unpack(const bivlm_weight& w, int64_t begin, int64_t end, void* out, int dtype,
                   uint8_t* scratch) {
  const Plan plan = dense_plan(w);
  Row row = row_in(w, plan, scratch);
  for (int64_t i = begin; i < end; ++i) {
    expand(w, i, plan, i == begin, row);
    write_row(w, row.dense, out, (i - begin) * w.columns, dtype);
  }
}

}  // namespace
}  // namespace bivlm::codes
