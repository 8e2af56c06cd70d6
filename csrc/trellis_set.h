// What a set of trellis kernels for one instruction set offers, and what it is told about a call.
#pragma once

#include <cstdint>

#include "bivlm_trellis.h"

namespace bivlm {

// A run of columns whose weights have bits
struct TrellisRun {
  int64_t column, columns;
  int64_t before;  // the bits of one row in the columns before it
  int bits;
};

// A call. `shared` is the scratch of all threads, written by the prepare functions and read-only
// afterwards.
struct TrellisTask {
  const bivlm_trellis* weight = nullptr;
  const TrellisRun* runs = nullptr;  // those with bits alone
  int64_t run_count = 0;
  int64_t strip_bytes = 0;  // of a full strip
  const void* x = nullptr;
  int64_t x_stride = 0, batch = 0;
  int dtype = 0;
  void* y = nullptr;
  const void* bias = nullptr;
  bool rounded = false;  // the inputs may be rounded
  uint8_t* shared = nullptr;
};

struct RotationTask {
  const void* x = nullptr;
  int64_t x_stride = 0;
  int dtype = 0;
  int64_t columns = 0;
  const float* signs = nullptr;
  uint8_t* shared = nullptr;
};

struct Bytes {
  int64_t shared, thread;
};

struct TrellisSet {
  Bytes (*rotation_bytes)(int64_t columns);
  void (*prepare_rotation)(const RotationTask& task);
  void (*rotate)(const RotationTask& task, int64_t token, float* out, uint8_t* scratch);

  // The inputs of a product are float32, rotated, (batch, columns).
  Bytes (*linear_bytes)(const TrellisTask& task);
  void (*prepare_weight)(const TrellisTask& task);
  void (*prepare_token)(const TrellisTask& task, int64_t token, const float* x);
  void (*multiply)(const TrellisTask& task, int64_t strip,
                   uint8_t* scratch);  // the rows of a strip, all tokens

  // After prepare_weight; `out` is the place of row `begin`.
  Bytes (*unpack_bytes)(const TrellisTask& task);
  void (*unpack)(const TrellisTask& task, int64_t strip, int64_t begin, int64_t end, void* out,
                 int dtype, uint8_t* scratch);
};

const TrellisSet& portable_trellis();
#if defined(BIVLM_HAVE_X86)
const TrellisSet& avx2_trellis();
const TrellisSet& avx512_trellis();
#endif
#if defined(BIVLM_HAVE_NEON)
const TrellisSet& neon_trellis();
#endif

// The set of bivlm_level().
const TrellisSet& trellis_kernels();

}  // namespace bivlm
