// Tiles of a trellis in NEON: weights are looked up, several rows at once, and multiplied as
// numbers of 16 bits.
#pragma once

#include "isa/neon/vector.h"
#include "trellis/digits.h"

namespace bivlm::trellis {
namespace {

struct Tiles : WideTiles<PlainTurn> {
  // sums (kTokens, 64) += the tile times the inputs of kTokens neighbouring tokens; eight rows at a
  // time
  template <int kDigits, int kTokens>
  static void multiply(const uint8_t* tile, int64_t quads, const uint8_t* slots,
                       const int32_t* starts, const float* scales, float* sums) {
    constexpr int64_t kSlot = slot_bytes(kDigits), kToken = kTileColumns / 4 * kSlot;
    for (int64_t first = 0; first < kStrip; first += 8) {
      int32x4_t low[kTokens][kDigits], high[kTokens][kDigits];
      BIVLM_UNROLL
      for (int n = 0; n < kTokens; ++n) {
        BIVLM_UNROLL
        for (int d = 0; d < kDigits; ++d) low[n][d] = high[n][d] = vdupq_n_s32(starts[4 * n + d]);
      }
      for (int64_t q = 0; q < quads; ++q) {
        const uint8x8x4_t bytes = vld4_u8(tile + q * kQuadBytes + 4 * first);  // column by column
        int16x8_t weights[4];
        BIVLM_UNROLL
        for (int c = 0; c < 4; ++c) weights[c] = vreinterpretq_s16_u16(vmovl_u8(bytes.val[c]));
        BIVLM_UNROLL
        for (int n = 0; n < kTokens; ++n) {
          BIVLM_UNROLL
          for (int d = 0; d < kDigits; ++d) {
            const int16_t* x =
                reinterpret_cast<const int16_t*>(slots + n * kToken + q * kSlot) + 4 * d;
            BIVLM_UNROLL
            for (int c = 0; c < 4; ++c) {
              low[n][d] = vmlal_n_s16(low[n][d], vget_low_s16(weights[c]), x[c]);
              high[n][d] = vmlal_n_s16(high[n][d], vget_high_s16(weights[c]), x[c]);
            }
          }
        }
      }
      BIVLM_UNROLL
      for (int n = 0; n < kTokens; ++n) {
        add(low[n], scales[n], sums + n * kStrip + first);
        add(high[n], scales[n], sums + n * kStrip + first + 4);
      }
    }
  }

 private:
  template <int kDigits>
  static void add(const int32x4_t (&digits)[kDigits], float scale, float* sums) {
    float32x4_t value = vcvtq_f32_s32(digits[kDigits - 1]);
    if (kDigits == 2) value = vfmaq_f32(vcvtq_f32_s32(digits[0]), value, vdupq_n_f32(65536));
    Vector::write(sums, vfmaq_f32(Vector::read(sums), value, vdupq_n_f32(scale)));
  }
};

}  // namespace
}  // namespace bivlm::trellis
