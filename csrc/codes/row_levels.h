// The numbers of a row of the kind `levels`: tables of float32, tables of bytes, or with one bit
// factors and offsets.
#pragma once

#include "codes/row.h"

namespace bivlm::codes {
namespace {

inline void set_map(const bivlm_weight& w, Row& row) {
  const int64_t count = stored_levels(w);
  for (int64_t i = 0; i < 2 * kTable; ++i) {
    const int code = code_of_entry(w.bits, i);
    const bool known = code < w.alphabet;
    row.map_levels[i] = int32_t(!known         ? 0
                                : !w.symmetric ? code
                                : code < count ? count - 1 - code
                                               : code - count);
    row.map_signs[i] = !known ? 0.0f : w.symmetric && code < count ? -w.scale : w.scale;
  }
}

// The stored levels of a table, sixteen numbers read where they may be read
inline Vector::Table stored_table(const bivlm_weight& w, int64_t table) {
  const int64_t count = stored_levels(w), first = table * count,
                all = w.table_rows * w.groups * count;
  const char* place = reinterpret_cast<const char*>(w.levels) + 2 * first;
  char copy[2 * kTable] = {};
  if (first + kTable > all) {
    std::memcpy(copy, place, size_t(2 * count));
    place = copy;
  }
  return Vector::table_of_halves(place);
}

// Tables of levels for every group of row i
inline void set_level_tables(const bivlm_weight& w, int64_t i, const Plan& plan, const Row& row) {
  for (int64_t g = 0; g < w.groups; ++g) {
    const Vector::Table stored = stored_table(w, (w.table_rows > 1 ? i : 0) * w.groups + g);
    float* out = row.tables + g * plan.table_floats;
    for (int64_t k = 0; k < plan.table_floats; k += Vector::kLanes) {
      const Vector::Floats levels =
          Vector::lookup<4>(stored, Vector::read_ints(row.map_levels + k));
      Vector::write(out + k, Vector::mul(levels, Vector::read(row.map_signs + k)));
    }
  }
}

// From the tables of levels: bytes, with factors and offsets
inline void set_byte_tables(const bivlm_weight& w, int64_t i, const Plan& plan, Row& row) {
  set_level_tables(w, i, plan, row);
  constexpr float kSteps = float((1 << 2 * Vector::kByteBits) - 1);
  for (int64_t g = 0; g < w.groups; ++g) {
    const float* table = row.tables + g * plan.table_floats;
    row.offsets[g] = table[0];
    row.factors[g] = (table[w.alphabet - 1] - table[0]) / kSteps;
  }
  for (int64_t g = 0; g < w.groups; ++g) {
    float* table = row.tables + g * plan.table_floats;
    // Where the inverse might overflow, from levels that are 2^64 times as large
    const bool tiny = row.factors[g] < 0x1p-100f;
    for (int64_t k = 0; tiny && k < plan.table_floats; ++k) table[k] *= 0x1p64f;
    const float factor = (table[w.alphabet - 1] - table[0]) / kSteps;
    const float inverse = factor > 0 ? 1 / factor : 0;
    uint8_t* bytes = row.byte_tables + g * kByteTableBytes;
    for (int64_t k = 0; k < plan.table_floats; k += kTable)
      Vector::write_table(table + k, table[0], inverse, bytes + 2 * k, bytes + 2 * k + kTable);
    for (int64_t k = 0; tiny && k < plan.table_floats; ++k) table[k] *= 0x1p-64f;
  }
}

// Factors and offsets of every group of row i: the two levels of one bit
inline void set_level_factors(const bivlm_weight& w, int64_t i, Row& row) {
  for (int64_t g = 0; g < w.groups; ++g) {
    row.offsets[g] = level_at(w, i, g, 0);
    row.factors[g] = level_at(w, i, g, 1) - row.offsets[g];
  }
}

}  // namespace
}  // namespace bivlm::codes
