// Numbers of the interface: unaligned, in three dtypes; and the arithmetic of sizes.
//
// Everything here has internal linkage, like everything that an instruction set includes. The file
// is compiled once for each instruction set, and the linker must never use one set's copy of a
// function for another set.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "bivlm.h"

namespace bivlm {
namespace {

// Element i of an array that need not be aligned.
template <class T>
inline T load(const void* array, int64_t i) {
  T value;
  std::memcpy(&value, static_cast<const char*>(array) + i * int64_t(sizeof(T)), sizeof(T));
  return value;
}

template <class T>
inline void store(void* array, int64_t i, T value) {
  std::memcpy(static_cast<char*>(array) + i * int64_t(sizeof(T)), &value, sizeof(T));
}

inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline float float_of_half(uint16_t half) {
#if defined(__F16C__)
  return _cvtsh_ss(half);
#else
  const uint32_t sign = uint32_t(half & 0x8000) << 16, magnitude = half & 0x7fff;
  if (magnitude >= 0x7c00) return float_of_bits(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  if (magnitude >= 0x400) return float_of_bits(sign | ((magnitude << 13) + 0x38000000));
  return float_of_bits(
      sign | bits_of_float(float(magnitude) * 0x1p-24f));  // subnormal: a multiple of 2^-24
#endif
}

inline uint16_t half_of_float(float value) {
#if defined(__F16C__)
  return _cvtss_sh(value, 0);
#else
  const uint32_t bits = bits_of_float(value), magnitude = bits & 0x7fffffff;
  const uint16_t sign = uint16_t(bits >> 16 & 0x8000);
  if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);  // rounds beyond 65504
  if (magnitude <
      0x38800000) {  // subnormal: adding 1/2 leaves the multiple of 2^-24 in the low bits
    return uint16_t(sign | (bits_of_float(float_of_bits(magnitude) + 0.5f) - 0x3f000000));
  }
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
  return uint16_t(sign | ((rounded - 0x38000000) >> 13));
#endif
}

inline float float_of_bfloat(uint16_t value) { return float_of_bits(uint32_t(value) << 16); }

inline uint16_t bfloat_of_float(float value) {
  const uint32_t bits = bits_of_float(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);  // NaN stays NaN
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Element i of x, bias or an output of a dtype.
inline float load_as(const void* array, int64_t i, int dtype) {
  if (dtype == BIVLM_FLOAT32) return load<float>(array, i);
  const uint16_t raw = load<uint16_t>(array, i);
  return dtype == BIVLM_BFLOAT16 ? float_of_bfloat(raw) : float_of_half(raw);
}

inline void store_as(void* array, int64_t i, float value, int dtype) {
  if (dtype == BIVLM_FLOAT32) return store(array, i, value);
  store(array, i, dtype == BIVLM_BFLOAT16 ? bfloat_of_float(value) : half_of_float(value));
}

inline int64_t element_bytes(int dtype) { return dtype == BIVLM_FLOAT32 ? 4 : 2; }

inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t round_up(int64_t a, int64_t to) { return ceil_div(a, to) * to; }

}  // namespace
}  // namespace bivlm
