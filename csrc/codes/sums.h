// Common data of all products: the streams of the codes of kRows rows, and the running sums of
// those rows with kTokens tokens.
#pragma once

#include "codes/streams.h"

namespace bivlm::codes {
namespace {

// Streams and sums are two objects: a stream's address is taken, and sums live in registers.
template <int kRows>
struct Streams {
  Stream of[kRows];

  BIVLM_INLINE Streams(const Plan& plan, const Row* rows) {
    BIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) of[r].begin(plan, rows[r]);
  }
};

// kSums of each, used in rotation, so that additions need not wait for each other.
template <int kRows, int kTokens, int kSums = 1>
struct Sums {
  V::Floats of[kRows][kTokens][kSums];

  BIVLM_INLINE Sums() {
    BIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      BIVLM_UNROLL
      for (int n = 0; n < kTokens; ++n) clear(r, n);
    }
  }
  // The sum for step k
  BIVLM_INLINE V::Floats& next(int r, int n, int k) { return of[r][n][k % kSums]; }
  BIVLM_INLINE void clear(int r, int n) {
    BIVLM_UNROLL
    for (int k = 0; k < kSums; ++k) of[r][n][k] = V::zero();
  }
  BIVLM_INLINE V::Floats all(int r, int n) const {
    V::Floats sum = of[r][n][0];
    BIVLM_UNROLL
    for (int k = 1; k < kSums; ++k) sum = V::add(sum, of[r][n][k]);
    return sum;
  }
  // out (kRows, kTokens): the sums, times a factor of the row where `rows` are given
  BIVLM_INLINE void finish(float* out, const Row* rows = nullptr) const {
    BIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      BIVLM_UNROLL
      for (int n = 0; n < kTokens; ++n) {
        const float sum = V::sum(all(r, n));
        out[r * kTokens + n] = rows ? sum * rows[r].factors[0] : sum;
      }
    }
  }
};

// Sums whose groups have factors. With one group (kWhole) its factor is left to the end of the row.
// Otherwise a block's sums are multiplied by a vector that has, for each lane, the factor of its
// group.
template <int kRows, int kTokens, bool kWhole>
struct AffineSums {
  Sums<kRows, kTokens, (kRows * kTokens > 2 ? 1 : 2)> block;
  Sums<kRows, kTokens> row;

  BIVLM_INLINE void close_block(const Task& task, const Row* rows, int64_t index) {
    if constexpr (!kWhole) {
      BIVLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const V::Floats factor = lane_factors(task, rows[r].factors, index);
        BIVLM_UNROLL
        for (int n = 0; n < kTokens; ++n) {
          row.of[r][n][0] = V::fma(block.all(r, n), factor, row.of[r][n][0]);
          block.clear(r, n);
        }
      }
    }
  }
  BIVLM_INLINE void finish(const Row* rows, float* out) const {
    if constexpr (kWhole) block.finish(out, rows);
    if constexpr (!kWhole) row.finish(out);
  }
};

}  // namespace
}  // namespace bivlm::codes
