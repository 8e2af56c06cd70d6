// A row before its product: its codes as one stream, and the places of its groups' numbers.
#pragma once

#include "codes/inputs.h"

namespace bivlm::codes {
namespace {

constexpr int64_t kTable = 16;  // entries of a table
constexpr int64_t kSlack = 64;  // bytes that may be read beyond what is there
// For each group: high and low bytes of its first table, then of its second
constexpr int64_t kByteTableBytes = 64;

// The layout of a row's data in a thread's scratch
struct RowLayout {
  int64_t codes, halves, factors, offsets, tables, byte_tables, dense, planes, total;
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
  at.planes = take(planes_in(w, nullptr).bytes);
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
  PlanesRow planes;
  // For every entry of a table of levels: the index of its stored level, and its sign and scale (0
  // beyond the alphabet)
  alignas(64) int32_t map_levels[2 * kTable];
  alignas(64) float map_signs[2 * kTable];
};

inline int code_of_entry(int bits, int64_t i) {
  return int(i < kTable ? i : (i - kTable) >> bits) & ((1 << bits) - 1);
}

// Scales and codes of groups, each to its own place; `size` bytes of codes if kSize does not give
// the size
template <int kSize>
inline void copy_groups(const uint8_t* from, int64_t step, int64_t groups, int64_t size,
                        uint8_t* codes, uint16_t* halves) {
  for (int64_t g = 0; g < groups; ++g, from += step) {
    std::memcpy(halves + g, from, 2);
    if (kSize) std::memcpy(codes + g * kSize, from + 2, kSize);
    if (!kSize && size) std::memcpy(codes + g * size, from + 2, size_t(size));
  }
}

// A block of a stream. If the buffer ends too early, it is copied to where all of it may be read.
inline const uint8_t* readable(const uint8_t* place, const uint8_t* limit, int64_t reads,
                               uint8_t* copy) {
  const int64_t left = limit - place;
  if (left >= reads) return place;
  std::memset(copy, 0, size_t(reads));
  if (left > 0) std::memcpy(copy, place, size_t(left));
  return copy;
}

// The codes of row i as one stream; if the path can read them between the scales, only the scales
// are collected
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

}  // namespace
}  // namespace bivlm::codes
