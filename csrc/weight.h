// What a packed weight means, one number at a time: the definition in float32 that every kernel is
// held to, and the number formats it needs.
//
// Everything here has internal linkage. The file is compiled once for each instruction set, and the
// linker must never take one set's copy of a function for another's.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "bivlm_kernels.h"

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
  if ((bits & 0x7fffffff) > 0x7f800000)
    return uint16_t(bits >> 16 | 0x40);  // not a number stays one
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

// The code of weight (row, column).
inline int code_at(const bivlm_weight& w, int64_t row, int64_t column) {
  const uint8_t* stream = w.codes + row * w.row_bytes;
  if (w.group_bytes) {
    stream += column / w.group_size * w.group_bytes + 2;
    column %= w.group_size;
  }
  const int64_t bit = column * w.bits;
  int value = stream[bit / 8] >> bit % 8;
  if (bit % 8 + w.bits > 8) value |= stream[bit / 8 + 1] << (8 - bit % 8);
  return value & ((1 << w.bits) - 1);
}

// The number of (row, group) times the weight's scale.
inline float scale_at(const bivlm_weight& w, int64_t row, int64_t group) {
  const int64_t i = row * w.groups + group;
  if (w.group_bytes)
    return float_of_half(load<uint16_t>(w.codes + row * w.row_bytes + group * w.group_bytes, 0)) *
           w.scale;
  switch (w.scales.dtype) {
    case 1:
      return load<float>(w.scales.values, i) * w.scale;
    case 2:
      return float_of_half(load<uint16_t>(w.scales.values, i)) * w.scale;
    case 3:
      return float(load<uint8_t>(w.scales.values, i)) *
             float_of_half(load<uint16_t>(w.scales.unit, row)) * w.scale;
    case 4:
      return float(load<int8_t>(w.scales.values, i)) *
             float_of_half(load<uint16_t>(w.scales.unit, row)) * w.scale;
    default:
      return w.scale;
  }
}

inline float zero_at(const bivlm_weight& w, int64_t row, int64_t group) {
  const int64_t i = row * w.groups + group;
  if (w.zero_kind == 1) return load<uint8_t>(w.zeros, i);
  if (w.zero_kind == 2) return float_of_half(load<uint16_t>(w.zeros, i));
  return float(w.alphabet - 1) * 0.5f;
}

// Levels that a table stores, and the level of a code; 0 for a code beyond the alphabet.
inline int64_t stored_levels(const bivlm_weight& w) {
  return w.symmetric ? w.alphabet / 2 : w.alphabet;
}

inline float level_at(const bivlm_weight& w, int64_t row, int64_t group, int code) {
  if (code >= w.alphabet) return 0;
  const int64_t count = stored_levels(w),
                table = ((w.table_rows > 1 ? row : 0) * w.groups + group) * count;
  if (!w.symmetric) return w.scale * float_of_half(load<uint16_t>(w.levels, table + code));
  const int64_t magnitude = code < count ? count - 1 - code : code - count;
  const float level = w.scale * float_of_half(load<uint16_t>(w.levels, table + magnitude));
  return code < count ? -level : level;
}

// What a code means, without tail and column scale.
inline float value_of(const bivlm_weight& w, int64_t row, int64_t group, int code) {
  switch (w.kind) {
    case BIVLM_KIND_LEVELS:
      return level_at(w, row, group, code);
    case BIVLM_KIND_UNIFORM:
      return (float(code) - zero_at(w, row, group)) * scale_at(w, row, group);
    default:
      return code ? scale_at(w, row, group) : -scale_at(w, row, group);
  }
}

// The tail: how many entries a row has, entry e of all, its value, and the dense code that stands
// in its place.
struct TailEntry {
  int64_t column;
  int code;
};

inline int64_t tail_begin(const bivlm_weight& w, int64_t row) {
  return w.tail_start ? load<int64_t>(w.tail_start, row) : 0;
}
inline int64_t tail_end(const bivlm_weight& w, int64_t row) {
  return w.tail_start ? load<int64_t>(w.tail_start, row + 1) : 0;
}

inline TailEntry tail_entry(const bivlm_weight& w, int64_t e) {
  const uint32_t entry =
      w.tail_wide ? load<uint32_t>(w.tail_entries, e) : load<uint16_t>(w.tail_entries, e);
  return {int64_t(entry >> 2), int(entry & 3)};
}

inline float tail_value(const bivlm_weight& w, int64_t row, int code) {
  return w.scale * float_of_half(load<uint16_t>(w.tail_scale, row)) *
         load<float>(w.tail_levels, code);
}

inline int dense_code(const bivlm_weight& w, int tail_code) {
  return w.alphabet >= 4 ? tail_code : tail_code >> 1;
}

}  // namespace
}  // namespace bivlm
