// The preparation of a row for its product, for weights of every kind: its codes as one stream,
// and the numbers of its groups as factors and offsets or as tables.
//
//   affine        weight = factors[g] * code + offsets[g]
//   float table   weight = tables[g][code], repeated until it has 16 entries. Two-bit codes have a
//                 second one, indexed by the upper code of two.
//   byte table    weight = factors[g] * (256 * high + low) + offsets[g], high and low bytes (128 *
//                 high + low where a byte has only seven bits). One byte alone would add an error
//                 as large as that of the rounded inputs.
#pragma once

#include "codes/row_affine.h"
#include "codes/row_levels.h"
#include "codes/row_planes.h"

namespace bivlm::codes {
namespace {

inline Row row_in(const bivlm_weight& w, const Plan& plan, uint8_t* scratch) {
  const RowLayout at = row_layout(w, plan);
  Row row;
  row.codes = row.limit = nullptr;
  row.own_codes = scratch + at.codes;
  row.halves = reinterpret_cast<uint16_t*>(scratch + at.halves);
  row.factors = reinterpret_cast<float*>(scratch + at.factors);
  row.offsets = reinterpret_cast<float*>(scratch + at.offsets);
  row.tables = reinterpret_cast<float*>(scratch + at.tables);
  row.byte_tables = scratch + at.byte_tables;
  row.dense = reinterpret_cast<float*>(scratch + at.dense);
  for (int64_t g = 0; g < padded_groups(w); ++g) row.factors[g] = row.offsets[g] = 0;
  if (plan.path == Path::kDense) std::memset(row.dense, 0, size_t(4 * round_up(w.columns, 64)));
  row.planes = planes_in(w, scratch + at.planes);
  if (w.planes) set_planes(w, row.planes);
  if (w.kind == BIVLM_KIND_LEVELS) set_map(w, row);
  if (plan.path == Path::kByteTable)
    std::memset(row.byte_tables, 0, size_t((w.groups + Vector::kLanes) * kByteTableBytes));
  return row;
}

inline void set_tables(const bivlm_weight& w, int64_t i, const Plan& plan, Row& row) {
  if (w.kind == BIVLM_KIND_LEVELS) return set_level_tables(w, i, plan, row);
  set_affine_tables(w, i, plan, row);
}

inline void set_factors(const bivlm_weight& w, int64_t i, Row& row) {
  if (w.kind == BIVLM_KIND_LEVELS) return set_level_factors(w, i, row);
  set_affine_factors(w, i, row);
}

// Everything that a path needs of row i. Tables that all rows share are made once, for the first
// row of a thread.
template <Path kPath>
inline void set_row(const Task& task, int64_t i, bool first, Row& row) {
  const bivlm_weight& w = *task.weight;
  if constexpr (kPath == Path::kFloatPlanes) {
    set_plane_tables(w, i, row.planes, row.tables);
    return set_plane_streams(w, i, row.planes);
  }
  set_codes(w, i, row, kPath == Path::kByteBlocks);
  const bool shared = w.kind == BIVLM_KIND_LEVELS && w.table_rows == 1;
  if (shared && !first) return;
  if constexpr (kPath == Path::kByteTable) return set_byte_tables(w, i, task.plan, row);
  if constexpr (kPath == Path::kFloatTable) return set_tables(w, i, task.plan, row);
  if constexpr (kPath == Path::kByteAffine || kPath == Path::kByteBlocks ||
                kPath == Path::kFloatAffine)
    return set_factors(w, i, row);
}

}  // namespace
}  // namespace bivlm::codes
