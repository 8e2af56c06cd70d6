// The inputs of a trellis product for sets that multiply weights and inputs as numbers of 16 bits:
// AVX2 and NEON.
//
// An input is scale * number, a number one or two signed digits of 16 bits. Sums of 128 products
// with weights + 128 stay below 2^31.
#pragma once

#include <cmath>

#include "trellis/lookup.h"

namespace bivlm::trellis {
namespace {

// Four inputs, digit by digit, lowest first
constexpr int64_t wide_slot_bytes(int digits) { return 8 * digits; }

// 128 inputs; `starts` gets the negated excess of a sum of products with weights + 128. A
// non-finite input makes the scale, and so every product, NaN.
template <int kDigits>
inline float wide_digits(const float* x, uint8_t* slots, int32_t* starts) {
  constexpr float kLargest = kDigits == 1 ? 32767.0f : 0x1p29f;
  float largest = 0, poison = 0;
  for (int64_t j = 0; j < kTileColumns; ++j) {
    const float magnitude = std::fabs(x[j]);
    largest = magnitude > largest ? magnitude : largest;
    poison += x[j] * 0.0f;
  }
  const float inverse = largest > 0 && poison == 0 ? kLargest / largest : 0,
              factor = inverse < 3e38f ? inverse : 0;
  int16_t* out = reinterpret_cast<int16_t*>(slots);
  int32_t sums[2] = {0, 0};
  for (int64_t j = 0; j < kTileColumns; ++j) {
    const int32_t number = poison == 0 ? int32_t(std::nearbyint(x[j] * factor)) : 0;
    const int16_t low = int16_t(number), high = int16_t((number - low) >> 16);
    int16_t* place = out + j / 4 * 4 * kDigits + j % 4;
    place[0] = low, sums[0] += low;
    if (kDigits == 2) place[4] = high, sums[1] += high;
  }
  starts[0] = -128 * sums[0], starts[1] = -128 * sums[1];
  return poison == 0 ? largest / kLargest : poison;
}

// The common part of the tiles of such instruction sets; `Turn` arranges rows in a tile (lookup.h).
template <class Turn>
struct WideTiles {
  static constexpr int kFloatDigits = 2;
  static constexpr int64_t slot_bytes(int digits) { return wide_slot_bytes(digits); }
  static int64_t table_bytes(const bivlm_trellis& w) { return lookup_offset(w.window, 5); }
  static void prepare_tables(const Task& task, uint8_t* out) { set_lookups(task, out); }

  static void decode(const Task& task, const uint8_t* p, int bits, int64_t quads,
                     const uint8_t* tables, uint8_t* tile) {
    if (task.weight->window == 8) return look_up<Turn, 8>(task, p, bits, quads, tables, tile);
    if (task.weight->window == 12) return look_up<Turn, 12>(task, p, bits, quads, tables, tile);
    look_up<Turn, 16>(task, p, bits, quads, tables, tile);
  }

  template <int kDigits>
  static float digits(const float* x, uint8_t* slots, int32_t* starts) {
    return wide_digits<kDigits>(x, slots, starts);
  }
};

}  // namespace
}  // namespace bivlm::trellis
