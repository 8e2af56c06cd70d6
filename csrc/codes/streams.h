// Common code of all products: a row's codes block by block, and the factors of a block's groups
// lane by lane.
#pragma once

#include "codes/expand.h"

namespace bivlm::codes {
namespace {

using V = Vector;

constexpr int64_t kLine = 64;  // bytes that the memory delivers at a time

// Blocks of a row's codes, one after the other. A row is too short for the processor's own
// prefetching. So each block prefetches the block in the same place of the next rows.
struct Stream {
  const uint8_t* place;
  const uint8_t* limit;
  int64_t block_bytes, reads, ahead;
  alignas(64) uint8_t copy[64];

  void begin(const Plan& plan, const Row& row) {
    place = row.codes;
    limit = row.limit;
    block_bytes = plan.block_bytes;
    reads = plan.read_bytes;
    ahead = plan.ahead_bytes;
  }
  const uint8_t* next() {
    const uint8_t* block = place;
    for (int64_t k = 0; k < block_bytes; k += kLine) __builtin_prefetch(block + ahead + k);
    place += block_bytes;
    return limit - block >= reads ? block : readable(block, limit, reads, copy);
  }
};

inline V::Floats lane_factors(const Task& task, const float* factors, int64_t block) {
  const float* first = factors + task.first_groups[block];
  return task.plan.steady ? V::set(*first)
                          : V::spread(first, V::read_ints(task.lane_groups + block * V::kLanes));
}

}  // namespace
}  // namespace bivlm::codes
