// Random trellis weights in buffers of exactly their size, with their values by the recurrence that
// docs/format.md gives, computed apart from the library: state <- state / 2^K + symbol * 2^(L - K),
// value = table[state].
#pragma once

#include <string>
#include <vector>

#include "bivlm.h"
#include "buffers.h"

namespace test {

struct TrellisOptions {
  int64_t rows = 64, columns = 64;
  int window = 8;
  std::vector<int> bits = {2};  // of the runs, in turn
  bool one_table = false, rotated = false;
  int64_t blocks = 1;  // of the rotation
  bool cut = false;    // from a wider weight: bits before the streams
  int offset = 0;      // bytes by which every pointer misses its alignment
};

struct TrellisWeight {
  bivlm_trellis w{};
  std::vector<int8_t> values;        // T, (rows, columns)
  std::vector<float> scales, signs;  // (rows,), (columns,)
  std::string words;
  std::vector<Buffer> buffers;

  TrellisWeight(const TrellisOptions& options, uint32_t seed);
  TrellisWeight(const TrellisWeight&) = delete;
};

}  // namespace test
