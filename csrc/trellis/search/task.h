// The search of a trellis: the functions of an instruction set, and the description of a call.
#pragma once

#include <cstdint>

#include "bivlm.h"

namespace bivlm::search {

struct Task {
  float* w;
  int64_t rows, columns;
  const float* u;
  const int8_t* table;
  const void* levels;
  uint32_t* state;
  uint8_t* symbols;
  int64_t held;  // rows of all strips
};

// The functions of an instruction set for one window and number of bits
struct Kernel {
  int64_t levels_bytes, scratch_bytes;
  void (*prepare)(const int8_t* table, void* levels);
  void (*strip)(const Task& task, int64_t strip, float* tile,
                void* scratch);  // all columns of a strip; tile (columns, 64)
};

using Kernels = Kernel (*)(int window, int k);

Kernel portable(int window, int k);  // compiled with no flags of an instruction set (portable.cpp)

}  // namespace bivlm::search
