// Bits put to the places of a mask, for processors without an instruction for it: in six steps,
// each of which moves some of the bits by a power of two ("expand" in H. S. Warren, Hacker's
// Delight, section 7-5). Which ones depends on the mask alone.
#pragma once

#include <cstdint>

namespace bivlm {
namespace {

struct Deposit {
  static constexpr int kSteps = 6;
  uint64_t places, moved[kSteps];

  explicit Deposit(uint64_t mask) : places(mask) {
    uint64_t rest = mask, gaps = ~mask << 1;  // gaps: the places with a zero just below them
    for (int step = 0; step < kSteps; ++step) {
      uint64_t odd = gaps;  // places with an odd number of gaps below them
      for (int shift = 1; shift < 64; shift *= 2) odd ^= odd << shift;
      moved[step] = odd & rest;
      rest = (rest ^ moved[step]) | moved[step] >> (1 << step);
      gaps &= ~odd;
    }
  }
  uint64_t operator()(uint64_t bits) const {
    for (int step = kSteps - 1; step >= 0; --step)
      bits = (bits & ~moved[step]) | (bits << (1 << step) & moved[step]);
    return bits & places;
  }
};

}  // namespace
}  // namespace bivlm
