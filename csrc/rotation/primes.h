// The prime factors of a width: the rotation of the inputs has one transform for each.
#pragma once

#include <cstdint>

namespace bivlm::rotation {
namespace {

struct Primes {
  int count = 0;
  int64_t factors[64];  // ascending

  explicit Primes(int64_t width) {
    for (int64_t prime = 2; prime * prime <= width; ++prime) {
      for (; width % prime == 0; width /= prime) factors[count++] = prime;
    }
    if (width > 1) factors[count++] = width;
  }
};

}  // namespace
}  // namespace bivlm::rotation
