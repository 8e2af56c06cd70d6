// The rotation of the inputs: the functions of an instruction set, and the description of a call.
#pragma once

#include <cstdint>

#include "bivlm.h"
#include "bytes.h"
#include "numbers.h"

namespace bivlm::rotation {

// A call for one block of the rotation. `shared` is the scratch of all threads, written by
// `prepare` and read-only afterwards.
struct Task {
  const void* x = nullptr;
  int64_t x_stride = 0;
  int dtype = 0;
  int64_t columns = 0;  // of the block
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

namespace {

// A token with all blocks, one after the other; `task` is that of the first.
inline void rotate_blocks(const Kernels& set, Task task, int64_t blocks, int64_t token, float* out,
                          uint8_t* scratch) {
  const int64_t step = task.columns * element_bytes(task.dtype);
  for (int64_t block = 0; block < blocks; ++block) {
    set.rotate(task, token, out + block * task.columns, scratch);
    task.x = static_cast<const uint8_t*>(task.x) + step;
    if (task.signs) task.signs += task.columns;
  }
}

}  // namespace
}  // namespace bivlm::rotation
