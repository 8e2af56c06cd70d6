// Unpacked weights.
#include <cstring>

#include "check.h"
#include "codes/cases.h"
#include "tests.h"

namespace test {
namespace {

// Whether the numbers are the same, bit for bit but for the signs of zeros
bool same(Buffer& a, Buffer& b, size_t count, int dtype) {
  const size_t size = element(dtype);
  for (size_t i = 0; i < count; ++i) {
    if (std::memcmp(a.data() + i * size, b.data() + i * size, size) != 0 &&
        (get(a, i, dtype) != 0 || get(b, i, dtype) != 0))
      return false;
  }
  return true;
}

void compare(const Weight& weight, Random& random, int turn) {
  const int64_t rows = weight.w.rows, columns = weight.w.columns;
  const int64_t begin = random.below(int(rows) + 1),
                end = begin + random.below(int(rows - begin) + 1);
  const int dtype = turn % 3;
  const size_t count = size_t((end - begin) * columns), size = element(dtype);
  Buffer expected(count * size, 0);
  for (size_t i = 0; i < count; ++i) {
    put(expected, i, weight.values[size_t(begin * columns) + i], dtype);
  }
  for (const char* set : instruction_sets()) {
    bivlm_use_instruction_set(set);
    Buffer out(count * size, turn % 2 ? 0 : turn % 7);
    const int code = bivlm_unpack(&weight.w, begin, end, out.data(), dtype, 1 + turn % 4);
    CHECK(code == 0, weight.words);
    CHECK(same(out, expected, count, dtype),
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
