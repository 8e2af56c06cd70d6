// What all products share: a row's codes block by block, and the factors of a block's groups lane by lane.
#pragma once

#include "expand.h"

namespace bivlm {
namespace {

using V = Vector;

// Blocks of a row's codes, one after the other
struct Stream {
  const uint8_t* place;
  const uint8_t* limit;
  int64_t block_bytes, reads;
  alignas(64) uint8_t copy[64];

  void begin(const Plan& plan, const Row& row) {
    place = row.codes;
    limit = row.limit;
    block_bytes = plan.block_bytes;
    reads = plan.read_bytes;
  }
  const uint8_t* next() {
    const uint8_t* block = place;
    place += block_bytes;
    return limit - block >= reads ? block : readable(block, limit, reads, copy);
  }
};

inline V::Floats lane_factors(const Task& task, const float* factors, int64_t block) {
  const float* first = factors + task.first_groups[block];
  return task.plan.steady ? V::set(*first) : V::spread(first, V::read_ints(task.lane_groups + block * V::kLanes));
}

}  // namespace
}  // namespace bivlm
