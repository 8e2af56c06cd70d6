#include "buffers.h"

#include <algorithm>
#include <cmath>

namespace test {
namespace {

// The nearest number with `digits` binary digits whose quantum is at least 2^smallest; ties to even
double rounded(double value, int digits, int smallest) {
  if (value == 0 || !std::isfinite(value)) return value;
  int exponent;
  std::frexp(value, &exponent);
  const double quantum = std::ldexp(1.0, std::max(exponent - digits, smallest));
  return std::nearbyint(value / quantum) * quantum;
}

}  // namespace

void put_field(uint8_t* stream, int64_t index, int bits, int value) {
  for (int b = 0; b < bits; ++b) {
    const int64_t bit = index * bits + b;
    if (value >> b & 1) stream[bit / 8] = uint8_t(stream[bit / 8] | 1 << bit % 8);
  }
}

float of_half(uint16_t half) {
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const double magnitude =
      exponent ? std::ldexp(1024 + fraction, exponent - 25) : std::ldexp(fraction, -24);
  return float(half & 0x8000 ? -magnitude : magnitude);
}

uint16_t half_of(double value) {
  const double magnitude = std::fabs(rounded(value, 11, -24));
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (magnitude >= 65536) return uint16_t(sign | 0x7c00);
  if (magnitude < 0x1p-14) return uint16_t(sign | uint16_t(std::ldexp(magnitude, 24)));
  int exponent;
  const double fraction = std::frexp(magnitude, &exponent);
  return uint16_t(sign | uint16_t((exponent + 14) << 10) |
                  uint16_t(std::ldexp(fraction, 11) - 1024));
}

uint16_t bfloat_of(double value) {
  const float nearest = float(rounded(value, 8, -133));
  uint32_t bits;
  __builtin_memcpy(&bits, &nearest, 4);
  return uint16_t(bits >> 16);
}

float of_bfloat(uint16_t value) {
  const uint32_t bits = uint32_t(value) << 16;
  float result;
  __builtin_memcpy(&result, &bits, 4);
  return result;
}

size_t element(int dtype) { return dtype ? 2 : 4; }

void put(Buffer& buffer, size_t i, float value, int dtype) {
  if (dtype == 0) buffer.put(i, value);
  if (dtype == 1) buffer.put(i, bfloat_of(value));
  if (dtype == 2) buffer.put(i, half_of(value));
}

float get(Buffer& buffer, size_t i, int dtype) {
  if (dtype == 0) return buffer.get<float>(i);
  return dtype == 1 ? of_bfloat(buffer.get<uint16_t>(i)) : of_half(buffer.get<uint16_t>(i));
}

}  // namespace test
