// The tests, one function for each file, and the instruction sets that they go through.
#pragma once

#include <cstring>
#include <vector>

#include "bivlm.h"

namespace test {

// Those that this processor and this build have, best first
inline const std::vector<const char*>& instruction_sets() {
  static const std::vector<const char*> all = [] {
    std::vector<const char*> found;
    for (int i = 0; const char* name = bivlm_instruction_set_name(i); ++i) {
      if (!std::strcmp(bivlm_use_instruction_set(name), name)) found.push_back(name);
    }
    return found;
  }();
  return all;
}

void test_interface();
void test_unpack();
void test_linear();
void test_large();
void test_many();
void test_rotate();
void test_trellis_linear();
void test_trellis_search();

}  // namespace test
