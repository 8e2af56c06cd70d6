// The weights that the tests go through: every kind, width, way to store numbers, at ragged widths
// and group sizes.
#pragma once

#include <functional>

#include "codes/weights.h"

namespace test {

inline std::vector<int64_t> group_sizes(int64_t columns) {
  std::vector<int64_t> sizes;
  for (const int64_t size : {5, 8, 16, 20, 32, 48, 64, 128, 256, 512}) {
    if (size < columns) sizes.push_back(size);
  }
  sizes.push_back(columns);
  return sizes;
}

inline std::vector<int64_t> widths() {
  std::vector<int64_t> all;
  for (int64_t columns = 1; columns <= 200; ++columns) all.push_back(columns);
  for (const int64_t columns : {255, 256, 257, 384, 511, 512, 513, 640, 1000, 1024, 1111, 2048})
    all.push_back(columns);
  return all;
}

// Everything of one width and group size; `turn` moves the secondary choices so that all of them
// meet
inline void for_kinds(Options o, int turn, const std::function<void(const Options&)>& body) {
  for (int alphabet : {2, 3, 4, 6, 8, 11, 16}) {
    o.kind = BIVLM_KIND_LEVELS;
    o.alphabet = alphabet;
    o.bits = alphabet <= 2 ? 1 : alphabet <= 4 ? 2 : alphabet <= 8 ? 3 : 4;
    o.symmetric = alphabet % 2 == 0 && turn % 2;
    o.table_per_row = turn % 3 != 0;
    o.tail = turn % 4 < 2 ? 0 : turn % 4 == 2 ? 0.02 : 0.3;
    o.tail_wide = turn % 5 == 0;
    o.tail_values = turn % 8 > 3;
    body(o);
  }
  o.tail = 0;
  for (int bits = 1; bits <= 8; ++bits) {
    o.kind = BIVLM_KIND_UNIFORM;
    o.bits = bits;
    o.alphabet = bits <= 4 && turn % 3 == 0 ? (1 << bits) - (bits > 1) : 1 << bits;
    o.numbers = 1 + turn % 3;
    o.zero_kind = (turn + bits) % 3;
    o.column_scale = turn % 2;
    body(o);
  }
  o.column_scale = false;
  o.kind = BIVLM_KIND_PLANE, o.bits = 1, o.alphabet = 2;
  for (int numbers = 0; numbers <= 4; ++numbers) {
    o.numbers = numbers;
    body(o);
  }
  if (o.group_size % 8 == 0 && o.columns % o.group_size == 0) {
    o.blocks = true;
    body(o);
    o.blocks = false;
  }
  o.planes = true;
  for (int mix = 0; mix < 6; ++mix) {
    o.parts = 1 + mix % 2, o.salient_parts = mix / 2;
    o.numbers = 1 + (turn + mix) % 4;
    o.means = (turn + mix) % 3 ? 1 + (turn / 2 + mix) % 4 : 0;
    o.column_scale = turn / 2 % 2;
    o.tail = mix || turn % 2 ? 0 : turn % 3 ? 0.15 : 0.004;
    body(o);
  }
}

}  // namespace test
