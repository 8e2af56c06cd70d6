// Random numbers, memory of exactly the size that is asked for (so that the address sanitizer sees
// every byte read beyond it), and numbers in the dtypes of the interface, computed apart from the
// library.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

namespace test {

struct Random {
  std::mt19937 engine;
  explicit Random(uint32_t seed) : engine(seed) {}
  int below(int n) { return int(engine() % uint32_t(n)); }
  float unit() { return float(engine() >> 8) * 0x1p-24f; }
  float normal() { return std::normal_distribution<float>()(engine); }
};

// Bytes with a start that may be moved off its alignment
class Buffer {
 public:
  Buffer(size_t bytes, int offset) : offset_(size_t(offset)), bytes_(bytes + size_t(offset)) {}
  uint8_t* data() { return bytes_.data() + offset_; }
  size_t size() const { return bytes_.size() - offset_; }
  template <class T>
  void put(size_t i, T value) {
    __builtin_memcpy(data() + i * sizeof(T), &value, sizeof(T));
  }
  template <class T>
  T get(size_t i) {
    T value;
    __builtin_memcpy(&value, data() + i * sizeof(T), sizeof(T));
    return value;
  }

 private:
  size_t offset_;
  std::vector<uint8_t> bytes_;
};

// Field `index` of a stream of fields, all bits of which are still zero
void put_field(uint8_t* stream, int64_t index, int bits, int value);

uint16_t half_of(double value);  // nearest even, by exact arithmetic
uint16_t bfloat_of(double value);
float of_half(uint16_t half);
float of_bfloat(uint16_t value);

// Elements of a buffer in one of the interface's dtypes
size_t element(int dtype);
void put(Buffer& buffer, size_t i, float value, int dtype);
float get(Buffer& buffer, size_t i, int dtype);

}  // namespace test
