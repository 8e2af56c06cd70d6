// Common steps of the exported functions before a kernel runs: check the inputs, allocate the
// scratch of the call, divide the work among threads.
#pragma once

#include <cstdlib>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "numbers.h"

namespace bivlm {
namespace {

constexpr int64_t kAlignment = 64;
constexpr int64_t kThreadWork =
    1 << 17;  // weights times tokens below which another thread costs more than it gains

inline bool known_dtype(int dtype) { return dtype >= BIVLM_FLOAT32 && dtype <= BIVLM_FLOAT16; }

inline bool known_inputs(int64_t columns, const void* x, int64_t x_stride, int64_t batch,
                         const void* out) {
  return columns >= 1 && batch >= 0 && !(batch > 1 && x_stride < 0) && !(batch && (!x || !out));
}

// One aligned piece of memory, freed at the end of the call.
class Scratch {
 public:
  explicit Scratch(int64_t bytes)
      : place_(static_cast<uint8_t*>(std::malloc(size_t(bytes + kAlignment)))) {}
  ~Scratch() { std::free(place_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  explicit operator bool() const { return place_ != nullptr; }
  uint8_t* at(int64_t offset) const {
    const auto address = reinterpret_cast<uintptr_t>(place_);
    return place_ + (kAlignment - address % kAlignment) + offset;
  }

 private:
  uint8_t* place_;
};

// The useful number of threads for `items` pieces that take `work` in total
inline int64_t useful_threads(int threads, int64_t items, int64_t work) {
  return larger(1, smaller(threads, smaller(items, ceil_div(work, kThreadWork))));
}

// body(thread, begin, end) for each thread's share of the items, in multiples of `step`.
template <class Body>
void share(int64_t items, [[maybe_unused]] int64_t threads, [[maybe_unused]] int64_t step,
           const Body& body) {
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel num_threads(int(threads))
    {
      const int64_t count = omp_get_num_threads(), me = omp_get_thread_num();
      const int64_t part = round_up(ceil_div(items, count), step);
      const int64_t begin = smaller(items, me * part);
      body(me, begin, smaller(items, begin + part));
    }
    return;
  }
#endif
  body(int64_t(0), int64_t(0), items);
}

}  // namespace
}  // namespace bivlm
