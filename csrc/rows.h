// What stands before the product with a row: its codes as one stream, and the numbers of its groups
// as factors and offsets or as tables.
//
//   affine        weight = factors[g] * code + offsets[g]
//   float table   weight = tables[g][code], repeated until it has 16 entries. Two-bit codes have a
//   second one, indexed by the upper code of two. byte table    weight = factors[g] * (256 * high +
//   low) + offsets[g], high and low bytes (128 * high + low where a byte has only seven bits).
//                 One byte alone would add an error as large as that of the rounded inputs.
#pragma once

#include "inputs.h"

namespace bivlm {
namespace {

constexpr int64_t kTable = 16;  // entries of a table
constexpr int64_t kByteTableBytes =
    64;                         // high and low bytes of a group's first table, then of its second
constexpr int64_t kSlack = 64;  // bytes that may be read beyond what is there

// Where a row's things lie in a thread's scratch
struct RowLayout {
  int64_t codes, halves, factors, offsets, tables, byte_tables, dense, total;
};

inline RowLayout row_layout(const bivlm_weight& w, const Plan& plan) {
  RowLayout at{};
  const auto take = [&at](int64_t bytes) {
    const int64_t place = at.total;
    at.total += round_up(bytes, 64);
    return place;
  };
  const bool blocks = w.group_bytes != 0, dense = plan.path == Path::kDense;
  at.codes = take(blocks ? w.columns / 8 + kSlack : 0);
  at.halves = take(blocks ? 2 * padded_groups(w) : 0);
  at.factors = take(4 * padded_groups(w));
  at.offsets = take(4 * padded_groups(w));
  at.tables = take(4 * w.groups * plan.table_floats);
  at.byte_tables =
      take(plan.path == Path::kByteTable ? (w.groups + Vector::kLanes) * kByteTableBytes : 0);
  at.dense = take(dense ? 4 * round_up(w.columns, 64) : 0);
  return at;
}

struct Row {
  const uint8_t* codes;  // of the row at hand
  const uint8_t* limit;  // end of what may be read
  uint8_t* own_codes;
  uint16_t* halves;
  float* factors;
  float* offsets;
  float* tables;
  uint8_t* byte_tables;
  float* dense;
  // Of every entry of a table of levels: which of the stored levels, and its sign and scale (0
  // beyond the alphabet)
  alignas(64) int32_t map_levels[2 * kTable];
  alignas(64) float map_signs[2 * kTable];
};

inline int code_of_entry(int bits, int64_t i) {
  return int(i < kTable ? i : (i - kTable) >> bits) & ((1 << bits) - 1);
}

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
  if (w.kind == BIVLM_KIND_LEVELS) set_map(w, row);
  if (plan.path == Path::kByteTable)
    std::memset(row.byte_tables, 0, size_t((w.groups + Vector::kLanes) * kByteTableBytes));
  return row;
}

// Scales and codes of groups, each to its own place; `size` bytes of codes where kSize does not say
// it
template <int kSize>
inline void copy_groups(const uint8_t* from, int64_t step, int64_t groups, int64_t size,
                        uint8_t* codes, uint16_t* halves) {
  for (int64_t g = 0; g < groups; ++g, from += step) {
    std::memcpy(halves + g, from, 2);
    if (kSize) std::memcpy(codes + g * kSize, from + 2, kSize);
    if (!kSize && size) std::memcpy(codes + g * size, from + 2, size_t(size));
  }
}

// The codes of row i as one stream; where the path can read them between the scales, only the
// scales are brought together
inline void set_codes(const bivlm_weight& w, int64_t i, Row& row, bool blocks = false) {
  if (!w.group_bytes) {
    row.codes = w.codes + i * w.row_bytes;
    row.limit = w.codes + w.rows * w.row_bytes;
    return;
  }
  const uint8_t* from = w.codes + i * w.row_bytes;
  if (blocks) {
    row.codes = from + 2;
    row.limit = w.codes + w.rows * w.row_bytes;
    copy_groups<0>(from, w.group_bytes, w.groups, 0, row.own_codes, row.halves);
    return;
  }
  if (w.group_size == 128) {
    copy_groups<16>(from, w.group_bytes, w.groups, 16, row.own_codes, row.halves);
  } else {
    copy_groups<0>(from, w.group_bytes, w.groups, w.group_size / 8, row.own_codes, row.halves);
  }
  row.codes = row.own_codes;
  row.limit = row.own_codes + w.columns / 8 + kSlack;
}

inline Vector::Floats read_numbers(const bivlm_numbers& numbers, int64_t i) {
  const char* place = static_cast<const char*>(numbers.values);
  switch (numbers.dtype) {
    case 1:
      return Vector::read(reinterpret_cast<const float*>(place + 4 * i));
    case 2:
      return Vector::read_halves(place + 2 * i);
    case 3:
      return Vector::read_unsigned(place + i);
    default:
      return Vector::read_signed(place + i);
  }
}

// scale_at of every group of row i
inline void set_scales(const bivlm_weight& w, int64_t i, const Row& row, float* out) {
  int64_t g = 0;
  if (w.group_bytes || w.scales.dtype) {
    const bivlm_numbers halves = {row.halves, 2, nullptr};
    const bivlm_numbers& numbers = w.group_bytes ? halves : w.scales;
    const int64_t first = w.group_bytes ? 0 : i * w.groups;
    const Vector::Floats unit = Vector::set(numbers.dtype > 2
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
    const bivlm_numbers zeros = {w.zeros, w.zero_kind == 1 ? 3 : 2, nullptr};
    for (; g + Vector::kLanes <= w.groups; g += Vector::kLanes)
      Vector::write(out + g, read_numbers(zeros, i * w.groups + g));
  }
  for (; g < w.groups; ++g) out[g] = zero_at(w, i, g);
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

inline void set_tables(const bivlm_weight& w, int64_t i, const Plan& plan, Row& row) {
  if (w.kind == BIVLM_KIND_LEVELS) return set_level_tables(w, i, plan, row);
  set_affine_tables(w, i, plan, row);
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
    const float* table = row.tables + g * plan.table_floats;
    const float inverse = row.factors[g] > 0 ? 1 / row.factors[g] : 0;
    uint8_t* bytes = row.byte_tables + g * kByteTableBytes;
    for (int64_t k = 0; k < plan.table_floats; k += kTable)
      Vector::write_table(table + k, row.offsets[g], inverse, bytes + 2 * k,
                          bytes + 2 * k + kTable);
  }
}

// Factors and offsets of every group of row i
inline void set_affine(const bivlm_weight& w, int64_t i, Row& row) {
  if (w.kind == BIVLM_KIND_LEVELS) {
    for (int64_t g = 0; g < w.groups; ++g) {
      row.offsets[g] = level_at(w, i, g, 0);
      row.factors[g] = level_at(w, i, g, 1) - row.offsets[g];
    }
    return;
  }
  set_scales(w, i, row, row.factors);
  if (w.kind == BIVLM_KIND_UNIFORM) set_zeros(w, i, row.offsets);
  const bool plane = w.kind == BIVLM_KIND_PLANE;
  for (int64_t g = 0; g < w.groups; ++g) {
    const float scale = row.factors[g];
    row.offsets[g] = plane ? -scale : -(scale * row.offsets[g]);
    row.factors[g] = plane ? 2 * scale : scale;
  }
}

// Everything that a path wants of row i. Tables that all rows share are made once, for the first
// row of a thread.
template <Path kPath>
inline void set_row(const Task& task, int64_t i, bool first, Row& row) {
  const bivlm_weight& w = *task.weight;
  set_codes(w, i, row, kPath == Path::kByteBlocks);
  const bool shared = w.kind == BIVLM_KIND_LEVELS && w.table_rows == 1;
  if (shared && !first) return;
  if constexpr (kPath == Path::kByteTable) return set_byte_tables(w, i, task.plan, row);
  if constexpr (kPath == Path::kFloatTable) return set_tables(w, i, task.plan, row);
  if constexpr (kPath == Path::kByteAffine || kPath == Path::kByteBlocks ||
                kPath == Path::kFloatAffine)
    return set_affine(w, i, row);
}

}  // namespace
}  // namespace bivlm
