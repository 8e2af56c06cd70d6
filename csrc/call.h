// Common steps of the exported functions before a kernel runs: check the inputs, allocate the
// scratch of the call, divide the work among threads.
#pragma once

#include <cstdlib>
#include <new>

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

// body(thread, item) for every item, each by the next thread that is free
template <class Body>
void deal(int64_t items, [[maybe_unused]] int64_t threads, const Body& body) {
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel num_threads(int(threads))
    {
      const int64_t me = omp_get_thread_num();
#pragma omp for schedule(dynamic)
      for (int64_t item = 0; item < items; ++item) body(me, item);
    }
    return;
  }
#endif
  for (int64_t item = 0; item < items; ++item) body(int64_t(0), item);
}

// An array in a scratch of its own, of `count` elements with their usual values.
template <class T>
class Array {
 public:
  explicit Array(int64_t count) : scratch_(count * int64_t(sizeof(T))) {
    for (int64_t i = 0; scratch_ && i < count; ++i) new (&(*this)[i]) T;
  }
  explicit operator bool() const { return bool(scratch_); }
  T& operator[](int64_t i) const { return reinterpret_cast<T*>(scratch_.at(0))[i]; }

 private:
  Scratch scratch_;
};

// Room in a piece of scratch: each call gives the offset of another `bytes`
struct Rooms {
  int64_t total = 0;
  int64_t take(int64_t bytes) {
    const int64_t offset = total;
    total += round_up(bytes, kAlignment);
    return offset;
  }
};

// Rows, strips or tokens [begin, end) of one of several products
struct Piece {
  int64_t product = 0, begin = 0, end = 0;
};

// 0, or the error in what is common to the products of a call
inline int check_products(const bivlm_product* products, int64_t count, int dtype) {
  if (count < 0 || (count && !products)) return BIVLM_ERROR_SHAPE;
  return known_dtype(dtype) ? 0 : BIVLM_ERROR_DTYPE;
}

// Whether two products, of any kind of tasks, read the same numbers
template <class Task>
bool same_inputs(const Task& a, const Task& b) {
  return a.x == b.x && a.batch == b.batch && (a.batch == 1 || a.x_stride == b.x_stride);
}

// The pieces of products that have `size(product)` of something, at most `most` in each
template <class Size>
class Pieces {
 public:
  Pieces(int64_t products, int64_t most, const Size& size)
      : count_(total(products, most, size)), all_(count_) {
    int64_t piece = 0;
    for (int64_t i = 0; all_ && i < products; ++i) {
      for (int64_t begin = 0; begin < size(i); begin += most)
        all_[piece++] = {i, begin, smaller(size(i), begin + most)};
    }
  }
  explicit operator bool() const { return bool(all_); }
  int64_t count() const { return count_; }
  const Piece& operator[](int64_t i) const { return all_[i]; }

 private:
  static int64_t total(int64_t products, int64_t most, const Size& size) {
    int64_t sum = 0;
    for (int64_t i = 0; i < products; ++i) sum += ceil_div(size(i), most);
    return sum;
  }
  int64_t count_;
  Array<Piece> all_;
};

}  // namespace
}  // namespace bivlm
