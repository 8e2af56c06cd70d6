// All tests of the library; the exit status says whether every check held.
#include <cstdio>

#include "check.h"
#include "tests.h"

int main() {
  test::test_interface();
  test::test_unpack();
  test::test_linear();
  test::test_large();
  test::test_rotate();
  test::test_trellis_linear();
  test::test_trellis_search();
  std::printf("%ld checks, %ld failures\n", test::counts().checks, test::counts().failures);
  return test::counts().failures != 0;
}
