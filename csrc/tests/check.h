// A test's only means: CHECK counts what fails and says where, with words that say for which case.
#pragma once

#include <cstdio>
#include <string>

namespace test {

struct Counts {
  long checks = 0, failures = 0;
};

inline Counts& counts() {
  static Counts all;
  return all;
}

inline void check(bool holds, const char* what, const char* file, int line,
                  const std::string& words) {
  ++counts().checks;
  if (holds) return;
  if (++counts().failures <= 20)
    std::printf("%s:%d: %s fails: %s\n", file, line, what, words.c_str());
}

}  // namespace test

#define CHECK(condition, words)                                  \
  do {                                                           \
    if (condition)                                               \
      ++test::counts().checks;                                   \
    else                                                         \
      test::check(false, #condition, __FILE__, __LINE__, words); \
  } while (false)
