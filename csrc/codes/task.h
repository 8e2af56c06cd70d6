// The products with weights of codes: the functions of an instruction set, and the description of a
// call.
#pragma once

#include <cstdint>

#include "bivlm.h"

namespace bivlm::codes {

// How the rows of a weight are multiplied; product.h says what each path takes.
enum class Path {
  kPortable,     // one weight at a time, sums in double
  kDense,        // a row is expanded to float32, then multiplied: any weight
  kFloatAffine,  // weight = factor * code + offset, float32
  kFloatTable,   // weight = table[code], float32
  kFloatPlanes,  // the same with codes from several planes
  kByteAffine,   // the same two with int8 activations
  kByteTable,
  kByteBlocks,  // kByteAffine for groups of 128 signs that have their scales between them
};

constexpr int kBlockTokens = 4;  // tokens that share the decoding of a vector of codes
constexpr int kBlockRows = 2;    // rows that share the reading of a vector of inputs

// The layout of a call, decided before there is memory for it. A row of codes is cut into blocks; a
// block is `slices` vectors of columns, and a lane of a vector covers `lane_columns` neighbouring
// columns of the block, all slices together.
struct Plan {
  Path path = Path::kPortable;
  bool whole = true;   // one group: its numbers are applied to the sums at the end of a row
  bool steady = true;  // a block lies within one group
  bool plain = false;  // kFloatPlanes: the codes have but one bit
  int64_t terms = 1;   // kFloatPlanes: of a weight, each with its own inputs
  int64_t slices = 0, lane_columns = 0, block_columns = 0, blocks = 0, block_bytes = 0;
  int64_t read_bytes = 0;    // what decoding a block reads, at least block_bytes
  int64_t ahead_bytes = 0;   // from a block of codes to what is fetched while it is decoded
  int64_t table_floats = 0;  // of one group's table
  int64_t tokens = 0;        // batch, rounded up to what the kernels take at a time
  int64_t plain_stride = 0;  // float32 inputs in order, per token; zeros after the last column
  int64_t shared_bytes = 0, thread_bytes = 0;  // scratch
};

// A call. The pointers below `scratch` are set by `prepare`, into the shared scratch.
struct Task {
  const bivlm_weight* weight = nullptr;
  Plan plan;
  const void* x = nullptr;
  int64_t x_stride = 0, batch = 0;
  int dtype = 0;
  void* y = nullptr;
  const void* bias = nullptr;
  uint8_t* scratch = nullptr;

  float* plain = nullptr;  // (tokens, plain_stride): x in order, times the column scales
  float* sliced =
      nullptr;  // (tokens, blocks, terms, block_columns): as the float paths decode them
  int8_t* bytes = nullptr;          // the same for the int8 paths
  float* lane_scales = nullptr;     // (tokens, blocks * lanes): the scale of a lane's bytes
  float* sums = nullptr;            // (tokens, groups): sum of the inputs of a group
  int32_t* lane_groups = nullptr;   // (blocks, lanes): group of a lane, counted from first_groups
  int64_t* first_groups = nullptr;  // (blocks,)
};

struct Kernels {
  Plan (*plan)(const bivlm_weight& weight, int64_t batch, int activations);
  void (*prepare)(Task& task);  // once per call
  void (*rows)(const Task& task, int64_t begin, int64_t end,
               uint8_t* scratch);                         // rows [begin, end) of y
  int64_t (*unpack_scratch)(const bivlm_weight& weight);  // bytes per thread
  void (*unpack)(const bivlm_weight& weight, int64_t begin, int64_t end, void* out, int dtype,
                 uint8_t* scratch);  // rows [begin, end)
};

extern const Kernels portable;  // one weight at a time (reference.cpp)

}  // namespace bivlm::codes
