// The tests of the library: all of them, or those that are named. The exit status says whether
// every check held.
#include <cstdio>
#include <cstring>

#include "check.h"
#include "tests.h"

namespace {

struct Test {
  const char* name;
  void (*run)();
};

constexpr Test kTests[] = {
    {"interface", test::test_interface},
    {"unpack", test::test_unpack},
    {"linear", test::test_linear},
    {"large", test::test_large},
    {"many", test::test_many},
    {"rotate", test::test_rotate},
    {"trellis_linear", test::test_trellis_linear},
    {"trellis_search", test::test_trellis_search},
};

bool named(const char* name, int count, char** names) {
  for (int i = 0; i < count; ++i) {
    if (!std::strcmp(names[i], name)) return true;
  }
  return count == 0;
}

}  // namespace

int main(int count, char** words) {
  for (const Test& test : kTests) {
    if (named(test.name, count - 1, words + 1)) test.run();
  }
  const test::Counts& found = test::counts();
  std::printf("%ld checks, %ld failures\n", found.checks, found.failures);
  return found.checks == 0 || found.failures != 0;
}
