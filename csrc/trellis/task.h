// The products with trellis weights: the functions of an instruction set, and the description of a
// call.
#pragma once

#include <cstdint>

#include "bivlm.h"
#include "bytes.h"

namespace bivlm::trellis {

// A run of columns whose weights have bits
struct Run {
  int64_t column, columns;
  int64_t before;  // the bits of one row in the columns before it
  int bits;
};

// A call. `tables` and `inputs` are scratch of all threads, each written by its own prepare
// function and read-only afterwards.
struct Task {
  const bivlm_trellis* weight = nullptr;
  const Run* runs = nullptr;  // only runs that have bits
  int64_t run_count = 0;
  int64_t strip_bytes = 0;  // of a full strip
  const void* x = nullptr;
  int64_t x_stride = 0, batch = 0;
  int dtype = 0;
  void* y = nullptr;
  const void* bias = nullptr;
  bool rounded = false;  // the inputs may be rounded
  uint8_t *tables = nullptr, *inputs = nullptr;
};

// The scratch of a product
struct Needs {
  int64_t tables, inputs, thread;
};

// The inputs of a product are float32, rotated, (batch, columns).
struct Kernels {
  Needs (*linear_needs)(const Task& task);
  void (*prepare_tables)(const Task& task);
  void (*prepare_token)(const Task& task, int64_t token, const float* x);
  void (*multiply)(const Task& task, int64_t strip,
                   uint8_t* scratch);  // the rows of a strip, all tokens

  // After prepare_tables; `out` is the place of row `begin`.
  Bytes (*unpack_bytes)(const Task& task);
  void (*unpack)(const Task& task, int64_t strip, int64_t begin, int64_t end, void* out, int dtype,
                 uint8_t* scratch);
};

extern const Kernels portable;  // one window at a time (reference.cpp)

}  // namespace bivlm::trellis
