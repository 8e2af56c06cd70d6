// The rotation of the inputs: the functions of an instruction set, and the description of a call.
#pragma once

#include <cstdint>

#include "bivlm.h"
#include "bytes.h"

namespace bivlm::rotation {

// A call. `shared` is the scratch of all threads, written by `prepare` and read-only afterwards.
struct Task {
  const void* x = nullptr;
  int64_t x_stride = 0;
  int dtype = 0;
  int64_t columns = 0;
  const float* signs = nullptr;
  uint8_t* shared = nullptr;
};

struct Kernels {
  Bytes (*bytes)(int64_t columns);
  void (*prepare)(const Task& task);
  void (*rotate)(const Task& task, int64_t token, float* out, uint8_t* scratch);
};

extern const Kernels portable;  // every transform as a sum (reference.cpp)

constexpr int64_t kColumnWork = 16;  // cost of a column, in weights: for the number of threads

}  // namespace bivlm::rotation
