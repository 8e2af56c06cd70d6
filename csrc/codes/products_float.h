// kRows rows times the inputs of kTokens tokens: the inner loops with float32 inputs. A vector of
// codes is decoded once and used for all the tokens, and a vector of inputs is read once for all
// the rows. out: (kRows, kTokens).
//
// Offsets are not needed here: sum_j offset[g(j)] x[j] is a product with the sums of the groups'
// inputs.
#pragma once

#include "codes/sums.h"

namespace bivlm::codes {
namespace {

// The codes 0 .. 15 as numbers, and the upper of two two-bit codes
struct CodeTables {
  V::Table lower, upper;

  explicit CodeTables(int bits) {
    alignas(64) float values[2 * kTable];
    for (int64_t k = 0; k < 2 * kTable; ++k) values[k] = float(code_of_entry(bits, k));
    lower = V::table(values);
    upper = V::table(values + kTable);
  }
};

// Path kFloatAffine with two to four bits: the sum of codes times inputs
template <int kBits, int kRows, int kTokens, bool kWhole>
inline void float_affine(const Task& task, const Row* rows, int64_t token, float* out) {
  constexpr bool kPairs = kBits == 2 && V::kIndexBits == 4;
  const int64_t width = task.plan.blocks * task.plan.block_columns;
  const float* x = task.sliced + token * width;
  AffineSums<kRows, kTokens, kWhole> sums;
  Streams<kRows> streams(task.plan, rows);
  const CodeTables tables(kBits);
  for (int64_t c = 0; c < task.plan.blocks; ++c, x += 8 * V::kLanes) {
    V::Ints codes[kRows];
    BIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      codes[r] = V::octets<kBits>(streams.of[r].next());
    }
    BIVLM_UNROLL
    for (int k = 0; k < 8; ++k) {
      const bool upper = kPairs && k % 2;
      V::Floats code[kRows];
      BIVLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const V::Ints shifted = V::shift(codes[r], kBits * (upper ? k - 1 : k));
        if constexpr (V::kLooksUpCodes)
          code[r] = V::template lookup<kBits>(upper ? tables.upper : tables.lower, shifted);
        if constexpr (!V::kLooksUpCodes)
          code[r] = V::convert(V::mask_ints(shifted, (1 << kBits) - 1));
      }
      BIVLM_UNROLL
      for (int n = 0; n < kTokens; ++n) {
        const V::Floats input = V::read(x + n * width + k * V::kLanes);
        BIVLM_UNROLL
        for (int r = 0; r < kRows; ++r) {
          V::Floats& sum = sums.block.next(r, n, k);
          sum = V::fma(code[r], input, sum);
        }
      }
    }
    sums.close_block(task, rows, c);
  }
  sums.finish(rows, out);
}

// Path kFloatAffine with one bit: the sum of the inputs whose bit is set
template <int kRows, int kTokens, bool kWhole>
inline void float_signs(const Task& task, const Row* rows, int64_t token, float* out) {
  const int64_t width = task.plan.blocks * task.plan.block_columns;
  const float* x = task.sliced + token * width;
  AffineSums<kRows, kTokens, kWhole> sums;
  Streams<kRows> streams(task.plan, rows);
  for (int64_t c = 0; c < task.plan.blocks; ++c, x += 8 * V::kLanes) {
    V::Ints codes[kRows];
    BIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) codes[r] = V::octets<1>(streams.of[r].next());
    BIVLM_UNROLL
    for (int k = 0; k < 8; ++k) {
      V::Where set[kRows];
      BIVLM_UNROLL
      for (int r = 0; r < kRows; ++r) set[r] = V::where(codes[r], k);
      BIVLM_UNROLL
      for (int n = 0; n < kTokens; ++n) {
        const V::Floats input = V::read(x + n * width + k * V::kLanes);
        BIVLM_UNROLL
        for (int r = 0; r < kRows; ++r) {
          V::Floats& sum = sums.block.next(r, n, k);
          sum = V::add_where(sum, set[r], input);
        }
      }
    }
    sums.close_block(task, rows, c);
  }
  sums.finish(rows, out);
}

// Weights of one slice, a vector for each row, times inputs that are `width` apart from token to
// token
template <int kRows, int kTokens, class S>
BIVLM_INLINE inline void add_products(const V::Floats* weight, const float* x, int64_t width, int k,
                                      S& sums) {
  BIVLM_UNROLL
  for (int n = 0; n < kTokens; ++n) {
    const V::Floats input = V::read(x + n * width);
    BIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      V::Floats& sum = sums.next(r, n, k);
      sum = V::fma(weight[r], input, sum);
    }
  }
}

// Path kFloatTable: every code is looked up. Where an index has four bits, two codes of two bits
// are looked up per shift.
template <int kBits, int kRows, int kTokens>
inline void float_table(const Task& task, const Row* rows, int64_t token, float* out) {
  constexpr bool kPairs = kBits == 2 && V::kIndexBits == 4;
  const Plan& plan = task.plan;
  const int64_t width = plan.blocks * plan.block_columns,
                group_blocks =
                    plan.whole ? plan.blocks : task.weight->group_size / plan.block_columns;
  const float* x = task.sliced + token * width;
  Sums<kRows, kTokens, (kRows * kTokens == 1 ? 4 : kRows * kTokens == 2 ? 2 : 1)> sums;
  Streams<kRows> streams(plan, rows);
  int64_t table = 0;
  for (int64_t c = 0; c < plan.blocks; table += plan.table_floats) {
    V::Table first[kRows], second[kRows];
    BIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      first[r] = V::table(rows[r].tables + table);
      second[r] = V::table(rows[r].tables + table + (kPairs ? kTable : 0));
    }
    const int64_t end = smaller(plan.blocks, c + group_blocks);
    for (; c < end; ++c, x += 8 * V::kLanes) {
      V::Ints codes[kRows];
      BIVLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        codes[r] = V::octets<kBits>(streams.of[r].next());
      }
      BIVLM_UNROLL
      for (int k = 0; k < 8; ++k) {
        const bool upper = kPairs && k % 2;
        V::Floats weight[kRows];
        BIVLM_UNROLL
        for (int r = 0; r < kRows; ++r) {
          weight[r] = V::template lookup<kBits>(upper ? second[r] : first[r],
                                                V::shift(codes[r], kBits * (upper ? k - 1 : k)));
        }
        add_products<kRows, kTokens>(weight, x + k * V::kLanes, width, k, sums);
      }
    }
  }
  sums.finish(out);
}

// Path kFloatPlanes: the codes of 64 columns are put together from the planes, a byte each, and
// looked up in the table of each term.
template <bool kPlain, int kRows, int kTokens>
inline void float_planes(const Task& task, const Row* rows, int64_t token, float* out) {
  constexpr int kVectors = int(64 / V::kBytes);
  const Plan& plan = task.plan;
  const int64_t width = plan.blocks * plan.terms * 64, group_blocks = task.weight->group_size / 64;
  const float* x = task.sliced + token * width;
  Sums<kRows, kTokens, (kRows * kTokens == 1 ? 4 : kRows * kTokens == 2 ? 2 : 1)> sums;
  int64_t table = 0;
  for (int64_t c = 0, last = plan.whole ? plan.blocks : group_blocks; c < plan.blocks; ++c) {
    if (c == last) table += plan.table_floats, last += group_blocks;
    V::Ints codes[kRows][kVectors];
    BIVLM_UNROLL
    for (int r = 0; r < kRows; ++r)
      plane_codes<kPlain>(rows[0].planes, rows[r].planes, c, codes[r]);
    for (int64_t t = 0; t < plan.terms; ++t, x += 64) {
      V::Table tables[kRows];
      BIVLM_UNROLL
      for (int r = 0; r < kRows; ++r)
        tables[r] = V::table(rows[r].tables + table + t * kPlaneCodes);
      BIVLM_UNROLL
      for (int k = 0; k < 4 * kVectors; ++k) {
        V::Floats weight[kRows];
        BIVLM_UNROLL
        for (int r = 0; r < kRows; ++r)
          weight[r] = V::template lookup<4>(tables[r], V::shift(codes[r][k / 4], 8 * (k % 4)));
        add_products<kRows, kTokens>(weight, x + k * V::kLanes, width, k, sums);
      }
    }
  }
  sums.finish(out);
}

// Path kDense: the rows are there in float32
template <int kRows, int kTokens>
inline void dense(const Task& task, const Row* rows, int64_t token, float* out) {
  constexpr int kSums = 2;
  const int64_t stride = task.plan.plain_stride;
  const float* x = task.plain + token * stride;
  Sums<kRows, kTokens, kSums> sums;
  for (int64_t j = 0; j < task.weight->columns; j += kSums * V::kLanes) {
    BIVLM_UNROLL
    for (int k = 0; k < kSums; ++k) {
      V::Floats weight[kRows];
      BIVLM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        weight[r] = V::read(rows[r].dense + j + k * V::kLanes);
      }
      BIVLM_UNROLL
      for (int n = 0; n < kTokens; ++n) {
        const V::Floats input = V::read(x + n * stride + j + k * V::kLanes);
        BIVLM_UNROLL
        for (int r = 0; r < kRows; ++r) {
          V::Floats& sum = sums.next(r, n, k);
          sum = V::fma(weight[r], input, sum);
        }
      }
    }
  }
  sums.finish(out);
}

}  // namespace
}  // namespace bivlm::codes
