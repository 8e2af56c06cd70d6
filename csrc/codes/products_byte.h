// kRows rows times the int8 inputs of kTokens tokens: the inner loops of the paths whose sums are
// integers (sums.h says how groups are taken into account). The bytes of a vector are
// multiplied and added four by four; a block's sums are then scaled in float32.
#pragma once

#include "codes/sums.h"

namespace bivlm::codes {
namespace {

// The int32 sums of a block of codes times int8 inputs; the codes in pieces of 16 bytes when `step`
// is above 0
template <int kBits, int kTokens>
BIVLM_INLINE inline void byte_block(const uint8_t* place, int64_t step, const int8_t* x,
                                    int64_t width, V::Ints* sums) {
  const auto input = [&](int n, int k)
                         BIVLM_INLINE { return V::read_bytes(x + n * width + k * V::kBytes); };
  if constexpr (kBits == 1) {  // bit k stays in its place: the sum is 2^k times too large, and
                               // shifted once per block
    const V::Ints low = step ? V::read_pieces(place, step) : V::read_bytes(place),
                  high = V::high_nibbles(low);
    BIVLM_UNROLL
    for (int n = 0; n < kTokens; ++n) {
      sums[n] = V::no_ints();
    }
    BIVLM_UNROLL
    for (int k = 0; k < 4; ++k) {
      const V::Ints mask = V::set_bytes(1 << k), first = V::both(low, mask),
                    second = V::both(high, mask);
      BIVLM_UNROLL
      for (int n = 0; n < kTokens; ++n) {
        const V::Ints sum =
            V::dot(V::dot(V::no_ints(), first, input(n, k)), second, input(n, k + 4));
        sums[n] = V::add_ints(sums[n], V::shift_signed(sum, k));
      }
    }
  } else if constexpr (kBits == 2) {
    const V::Ints low = V::read_bytes(place), high = V::high_nibbles(low), mask = V::set_bytes(3),
                  upper = V::set_bytes(12);
    const V::Ints codes[4] = {V::both(low, mask), V::both(low, upper), V::both(high, mask),
                              V::both(high, upper)};
    BIVLM_UNROLL
    for (int n = 0; n < kTokens; ++n) {
      const V::Ints even =
          V::dot(V::dot(V::no_ints(), codes[0], input(n, 0)), codes[2], input(n, 2));
      const V::Ints fours =
          V::dot(V::dot(V::no_ints(), codes[1], input(n, 1)), codes[3], input(n, 3));
      sums[n] = V::add_ints(even, V::shift_signed(fours, 2));
    }
  } else if constexpr (kBits == 4) {
    const V::Ints both = V::read_bytes(place), mask = V::set_bytes(15), low = V::both(both, mask),
                  high = V::both(V::high_nibbles(both), mask);
    BIVLM_UNROLL
    for (int n = 0; n < kTokens; ++n) {
      sums[n] = V::dot(V::dot(V::no_ints(), low, input(n, 0)), high, input(n, 1));
    }
  } else if constexpr (kBits == 8) {
    const V::Ints codes = V::read_bytes(place);
    BIVLM_UNROLL
    for (int n = 0; n < kTokens; ++n) {
      sums[n] = V::dot(V::no_ints(), codes, input(n, 0));
    }
  } else {
    V::Ints codes[byte_slices(kBits)];
    V::odd<kBits>(place, codes);
    BIVLM_UNROLL
    for (int n = 0; n < kTokens; ++n) {
      sums[n] = V::no_ints();
    }
    for (int k = 0; k < int(byte_slices(kBits)); ++k) {
      const V::Ints clean = V::both(codes[k], V::set_bytes((1 << kBits) - 1));
      BIVLM_UNROLL
      for (int n = 0; n < kTokens; ++n) {
        sums[n] = V::dot(sums[n], clean, input(n, k));
      }
    }
  }
}

// sum += a block's integers times the scales of the inputs and, unless this is done at the end, the
// factors of the groups
template <bool kWhole>
BIVLM_INLINE inline void add_block(V::Ints block, const float* scales, V::Floats factor,
                                   V::Floats& sum) {
  const V::Floats scale = V::read(scales);
  sum = V::fma(V::convert(block), kWhole ? scale : V::mul(scale, factor), sum);
}

// Paths kByteAffine and kByteBlocks
template <int kBits, int kRows, int kTokens, bool kWhole, bool kBlocks>
inline void byte_affine(const Task& task, const Row* rows, int64_t token, float* out) {
  const Plan& plan = task.plan;
  const int64_t width = plan.blocks * plan.block_columns, lanes = plan.blocks * V::kLanes;
  const int8_t* x = task.bytes + token * width;
  const float* scales = task.lane_scales + token * lanes;
  Sums<kRows, kTokens> sums;
  Streams<kRows> streams(plan, rows);
  for (int64_t c = 0; c < plan.blocks;
       ++c, x += byte_slices(kBits) * V::kBytes, scales += V::kLanes) {
    BIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      V::Ints block[kTokens];
      byte_block<kBits, kTokens>(streams.of[r].next(), kBlocks ? task.weight->group_bytes : 0, x,
                                 width, block);
      V::Floats factor = V::zero();
      if constexpr (!kWhole) factor = lane_factors(task, rows[r].factors, c);
      BIVLM_UNROLL
      for (int n = 0; n < kTokens; ++n) {
        add_block<kWhole>(block[n], scales + n * lanes, factor, sums.of[r][n][0]);
      }
    }
  }
  sums.finish(out, kWhole ? rows : nullptr);
}

// The two byte tables of a block, with what indexes them
struct ByteTables {
  V::Ints high, low, upper_high, upper_low;
};

inline ByteTables byte_tables(const Task& task, const Row& row, int64_t block, bool pairs) {
  const uint8_t* first =
      row.byte_tables + (task.plan.whole ? 0 : task.first_groups[block] * kByteTableBytes);
  const bool one = task.plan.whole || task.plan.steady;
  const int32_t* which = one ? nullptr : task.lane_groups + block * V::kLanes;
  const auto table = [&](int64_t offset) BIVLM_INLINE {
    return one ? V::byte_table(first + offset)
               : V::byte_tables(first + offset, kByteTableBytes, which);
  };
  ByteTables tables;
  tables.high = table(0);
  tables.low = table(kTable);
  tables.upper_high = pairs ? table(2 * kTable) : tables.high;
  tables.upper_low = pairs ? table(3 * kTable) : tables.low;
  return tables;
}

// The indices of a block's codes: slice k's in index[k]
template <int kBits>
BIVLM_INLINE inline void byte_indices(const uint8_t* place, V::Ints* index) {
  constexpr int kSlices = int(byte_slices(kBits));
  const V::Ints mask = V::set_bytes(15);
  if constexpr (8 % kBits == 0) {
    const V::Ints bytes = V::read_bytes(place), low = V::both(bytes, mask),
                  high = V::both(V::high_nibbles(bytes), mask);
    BIVLM_UNROLL
    for (int k = 0; k < kSlices; ++k) {
      index[k] = k < kSlices / 2 ? low : high;
    }
  } else {
    V::odd<kBits>(place, index);
    BIVLM_UNROLL
    for (int k = 0; k < kSlices; ++k) {
      index[k] = V::both(index[k], mask);
    }
  }
}

// Path kByteTable
template <int kBits, int kRows, int kTokens, bool kWhole>
inline void byte_table(const Task& task, const Row* rows, int64_t token, float* out) {
  constexpr int kSlices = int(byte_slices(kBits));
  const Plan& plan = task.plan;
  const int64_t width = plan.blocks * plan.block_columns, lanes = plan.blocks * V::kLanes;
  const int8_t* x = task.bytes + token * width;
  const float* scales = task.lane_scales + token * lanes;
  Sums<kRows, kTokens> sums;
  Streams<kRows> streams(plan, rows);
  ByteTables tables[kRows];
  BIVLM_UNROLL
  for (int r = 0; r < kRows; ++r) tables[r] = byte_tables(task, rows[r], 0, kBits == 2);
  for (int64_t c = 0; c < plan.blocks; ++c, x += kSlices * V::kBytes, scales += V::kLanes) {
    BIVLM_UNROLL
    for (int r = 0; r < kRows; ++r) {
      if constexpr (!kWhole) tables[r] = byte_tables(task, rows[r], c, kBits == 2);
      V::Ints index[kSlices], high[kTokens], low[kTokens];
      byte_indices<kBits>(streams.of[r].next(), index);
      BIVLM_UNROLL
      for (int n = 0; n < kTokens; ++n) {
        high[n] = low[n] = V::no_ints();
      }
      BIVLM_UNROLL
      for (int k = 0; k < kSlices; ++k) {
        const bool upper = kBits == 2 && k % 2;
        const V::Ints high_weight =
            V::look_bytes(upper ? tables[r].upper_high : tables[r].high, index[k]);
        const V::Ints low_weight =
            V::look_bytes(upper ? tables[r].upper_low : tables[r].low, index[k]);
        BIVLM_UNROLL
        for (int n = 0; n < kTokens; ++n) {
          const V::Ints input = V::read_bytes(x + n * width + k * V::kBytes);
          high[n] = V::dot(high[n], high_weight, input);
          low[n] = V::dot(low[n], low_weight, input);
        }
      }
      V::Floats factor = V::zero();
      if constexpr (!kWhole) factor = lane_factors(task, rows[r].factors, c);
      BIVLM_UNROLL
      for (int n = 0; n < kTokens; ++n) {
        const V::Ints sum = V::add_ints(V::shift_left(high[n], V::kByteBits), low[n]);
        add_block<kWhole>(sum, scales + n * lanes, factor, sums.of[r][n][0]);
      }
    }
  }
  sums.finish(out, kWhole ? rows : nullptr);
}

}  // namespace
}  // namespace bivlm::codes
