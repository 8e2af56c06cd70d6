// Random weights with their values by the definition in docs/format.md, computed apart from the
// library.
#pragma once

#include <string>
#include <vector>

#include "bivlm.h"
#include "buffers.h"

namespace test {

struct Options {
  int kind = BIVLM_KIND_LEVELS, bits = 2;
  int64_t rows = 5, columns = 64, group_size = 64;
  int alphabet = 4;
  bool symmetric = false, table_per_row = true, blocks = false, column_scale = false;
  int numbers = 2;  // dtype of the scales
  int zero_kind = 0;
  double tail = 0;  // share of the weights
  bool tail_wide = false, tail_values = false;
  int offset = 0;  // bytes by which every pointer misses its alignment
  // A plane with parts, salient columns, means (a dtype of numbers) or a tail
  bool planes = false;
  int parts = 1, salient_parts = 0, means = 0;
};

// A pointer into a buffer, aligned or not
template <class T>
const T* pointer(Buffer& buffer) {
  return reinterpret_cast<const T*>(reinterpret_cast<uintptr_t>(buffer.data()));
}

struct Weight {
  bivlm_weight w{};
  std::vector<float> values;  // (rows, columns), with tail and column scales
  std::vector<float> dense;   // what the codes say where the tail lies; elsewhere the same
  std::string words;
  std::vector<std::vector<Buffer>> buffers;
  std::vector<int64_t> starts;
  bivlm_planes planes{};

  Buffer& buffer(int64_t bytes, int offset);

  Weight(const Options& options, uint32_t seed);
  Weight(const Weight&) = delete;
};

}  // namespace test
