// Unpacked weights, bit for bit.
#include <cstring>

#include "check.h"
#include "codes/cases.h"
#include "tests.h"

namespace test {
namespace {

void compare(const Weight& weight, Random& random, int turn) {
  const int64_t rows = weight.w.rows, columns = weight.w.columns;
  const int64_t begin = random.below(int(rows) + 1),
                end = begin + random.below(int(rows - begin) + 1);
  const int dtype = turn % 3;
  const size_t count = size_t((end - begin) * columns), size = dtype ? 2 : 4;
  Buffer expected(count * size, 0);
  for (size_t i = 0; i < count; ++i) {
    const float value = weight.values[size_t(begin * columns) + i];
    if (dtype == 0) expected.put(i, value);
    if (dtype == 1) expected.put(i, bfloat_of(value));
    if (dtype == 2) expected.put(i, half_of(value));
  }
  for (const char* set : instruction_sets()) {
    bivlm_use_instruction_set(set);
    Buffer out(count * size, turn % 2 ? 0 : turn % 7);
    const int code = bivlm_unpack(&weight.w, begin, end, out.data(), dtype, 1 + turn % 4);
    CHECK(code == 0, weight.words);
    CHECK(count == 0 || std::memcmp(out.data(), expected.data(), count * size) == 0,
          weight.words + "; " + set + ", dtype " + std::to_string(dtype));
  }
}

}  // namespace

void test_unpack() {
  Random random(3);
  int turn = 0;
  for (const int64_t columns : widths()) {
    for (const int64_t group_size : group_sizes(columns)) {
      Options o;
      o.columns = columns, o.group_size = group_size;
      ++turn;
      for_kinds(o, turn, [&](const Options& drawn) {
        Options options = drawn;
        ++turn;
        options.rows = turn % 50 == 0 ? 90 : 1 + random.below(4);
        options.offset = turn % 3 == 0 ? 1 : 0;
        compare(Weight(options, uint32_t(turn)), random, turn);
      });
    }
  }
}

}  // namespace test
