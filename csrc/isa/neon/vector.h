// The vector operations (isa/vector_rules.h) in NEON with half precision conversions, as every
// 64-bit ARM processor has them: 4 lanes of 32 bits, or 16 bytes.
//
// The products of bytes are widened to 16 and 32 bits; bytes of weights stay below 128, so that
// they can be taken for signed ones.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "isa/deposit.h"
#include "numbers.h"

namespace bivlm {
namespace {

struct Vector {
  static constexpr int64_t kLanes = 4, kBytes = 16;
  static constexpr int kIndexBits = 3;
  static constexpr int kByteBits = 7;
  static constexpr int kWidestBytes = 4;
  static constexpr bool kLooksUpCodes = false;
  static constexpr int64_t odd_slices(int) { return 2; }

  using Floats = float32x4_t;
  using Ints = uint32x4_t;
  using Table = uint8x16x4_t;

  static Floats zero() { return vdupq_n_f32(0); }
  static Floats set(float value) { return vdupq_n_f32(value); }
  static Floats read(const float* p) {
    return vreinterpretq_f32_u8(vld1q_u8(reinterpret_cast<const uint8_t*>(p)));
  }
  static void write(float* p, Floats v) {
    vst1q_u8(reinterpret_cast<uint8_t*>(p), vreinterpretq_u8_f32(v));
  }
  static Floats add(Floats a, Floats b) { return vaddq_f32(a, b); }
  static Floats sub(Floats a, Floats b) { return vsubq_f32(a, b); }
  static Floats mul(Floats a, Floats b) { return vmulq_f32(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return vfmaq_f32(c, a, b); }
  static float sum(Floats v) { return vaddvq_f32(v); }
  static Floats largest(Floats a, Floats b) { return vmaxnmq_f32(a, b); }
  static float largest_of(Floats v) { return vmaxnmvq_f32(v); }
  static Floats magnitude(Floats v) { return vabsq_f32(v); }

  static Floats read_halves(const void* p) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(static_cast<const uint8_t*>(p))));
  }
  static Floats read_bfloats(const void* p) {
    return vreinterpretq_f32_u32(
        vshll_n_u16(vreinterpret_u16_u8(vld1_u8(static_cast<const uint8_t*>(p))), 16));
  }
  static Floats read_unsigned(const void* p) {
    return vcvtq_f32_u32(index(static_cast<const uint8_t*>(p)));
  }
  static Floats read_signed(const void* p) {
    const int8x8_t bytes = vreinterpret_s8_u32(vdup_n_u32(load<uint32_t>(p, 0)));
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes))));
  }
  static void write_halves(void* p, Floats v) {
    vst1_u8(static_cast<uint8_t*>(p), vreinterpret_u8_f16(vcvt_f16_f32(v)));
  }
  static void write_bfloats(void* p, Floats v) {
    const uint32x4_t bits = vreinterpretq_u32_f32(v),
                     odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, odd), vdupq_n_u32(0x7fff));
    vst1_u8(static_cast<uint8_t*>(p), vreinterpret_u8_u16(vshrn_n_u32(rounded, 16)));
  }
  static void write_bytes(int8_t* p, Floats v) {
    const int16x4_t shorts = vqmovn_s32(vcvtnq_s32_f32(v));
    store<uint32_t>(
        p, 0, vget_lane_u32(vreinterpret_u32_s8(vqmovn_s16(vcombine_s16(shorts, shorts))), 0));
  }

  static Ints read_ints(const int32_t* p) { return read_bytes(p); }
  static Ints shift(Ints v, int bits) { return vshlq_u32(v, vdupq_n_s32(-bits)); }
  static Ints mask_ints(Ints v, int mask) { return vandq_u32(v, vdupq_n_u32(uint32_t(mask))); }
  static Floats convert(Ints v) { return vcvtq_f32_s32(vreinterpretq_s32_u32(v)); }

  static Table table(const float* p) { return vld1q_u8_x4(reinterpret_cast<const uint8_t*>(p)); }
  static Table table_of_halves(const void* p) {
    float values[16];
    for (int i = 0; i < 4; ++i)
      write(values + 4 * i, read_halves(static_cast<const char*>(p) + 8 * i));
    return table(values);
  }
  // The four bytes of entry i of a table begin at byte 4 i
  template <int kBits>
  static Floats lookup(Table table, Ints index) {
    const uint32x4_t first = vmulq_n_u32(vandq_u32(index, vdupq_n_u32(15)), 0x04040404);
    return vreinterpretq_f32_u8(
        vqtbl4q_u8(table, vreinterpretq_u8_u32(vaddq_u32(first, vdupq_n_u32(0x03020100)))));
  }
  static Floats spread(const float* p, Ints index) {
    const uint32x4_t first = vmulq_n_u32(index, 0x04040404);
    const uint8x16_t values = vld1q_u8(reinterpret_cast<const uint8_t*>(p));
    return vreinterpretq_f32_u8(
        vqtbl1q_u8(values, vreinterpretq_u8_u32(vaddq_u32(first, vdupq_n_u32(0x03020100)))));
  }

  using Where = uint32x4_t;
  static Where where(Ints v, int bit) { return vtstq_u32(v, vdupq_n_u32(1u << bit)); }
  static Floats add_where(Floats sum, Where where, Floats x) {
    return vaddq_f32(sum, vreinterpretq_f32_u32(vandq_u32(where, vreinterpretq_u32_f32(x))));
  }
  static Floats choose(Where where, Floats a, Floats b) { return vbslq_f32(where, a, b); }

  template <int kBits>
  static constexpr int64_t octet_reads = kBits == 3 ? 16 : 4 * kBits;
  template <int kBits>
  static Ints octets(const uint8_t* p) {
    if constexpr (kBits == 1) return index(p);
    if constexpr (kBits == 2) return vmovl_u16(vreinterpret_u16_u8(vld1_u8(p)));
    if constexpr (kBits == 3) {
      const uint8_t places[16] = {0, 1, 2, 255, 3, 4, 5, 255, 6, 7, 8, 255, 9, 10, 11, 255};
      return vreinterpretq_u32_u8(vqtbl1q_u8(vld1q_u8(p), vld1q_u8(places)));
    }
    return read_bytes(p);
  }

  static Ints read_bytes(const void* p) {
    return vreinterpretq_u32_u8(vld1q_u8(static_cast<const uint8_t*>(p)));
  }
  static Ints read_pieces(const uint8_t* p, int64_t) { return read_bytes(p); }
  static void store_bytes(void* p, Ints v) {
    vst1q_u8(static_cast<uint8_t*>(p), vreinterpretq_u8_u32(v));
  }
  static Ints set_bytes(int value) { return vreinterpretq_u32_u8(vdupq_n_u8(uint8_t(value))); }
  static Ints mark(Ints v, uint64_t flags, int value) {
    const uint8x8_t bits = vcreate_u8(0x8040201008040201);
    const uint8x16_t set = vcombine_u8(vtst_u8(vdup_n_u8(uint8_t(flags)), bits),
                                       vtst_u8(vdup_n_u8(uint8_t(flags >> 8)), bits));
    return vreinterpretq_u32_u8(
        vaddq_u8(vreinterpretq_u8_u32(v), vandq_u8(set, vdupq_n_u8(uint8_t(value)))));
  }
  static Ints both(Ints a, Ints b) { return vandq_u32(a, b); }
  static Ints no_ints() { return vdupq_n_u32(0); }
  static Ints add_ints(Ints a, Ints b) { return vaddq_u32(a, b); }
  static Ints shift_left(Ints v, int bits) { return vshlq_u32(v, vdupq_n_s32(bits)); }
  static Ints shift_signed(Ints v, int bits) {
    return vreinterpretq_u32_s32(vshlq_s32(vreinterpretq_s32_u32(v), vdupq_n_s32(-bits)));
  }
  static Ints high_nibbles(Ints v) {
    return vreinterpretq_u32_u8(vshrq_n_u8(vreinterpretq_u8_u32(v), 4));
  }
  // Neighbouring products are added in 16 bits: 2 * 127 * 127 fits
  static Ints dot(Ints acc, Ints weights, Ints x) {
    const int8x16_t w = vreinterpretq_s8_u32(weights), v = vreinterpretq_s8_u32(x);
    const int16x8_t low = vmull_s8(vget_low_s8(w), vget_low_s8(v)), high = vmull_high_s8(w, v);
    return vreinterpretq_u32_s32(vpadalq_s16(vreinterpretq_s32_u32(acc), vpaddq_s16(low, high)));
  }
  static Ints byte_table(const uint8_t* p) { return read_bytes(p); }
  static Ints byte_tables(const uint8_t* p, int64_t stride, const int32_t* which) {
    return read_bytes(p + which[0] * stride);
  }
  static Ints look_bytes(Ints table, Ints index) {
    return vreinterpretq_u32_u8(
        vqtbl1q_u8(vreinterpretq_u8_u32(table), vreinterpretq_u8_u32(index)));
  }

  template <int kBits>
  static constexpr int64_t odd_reads = octet_reads<kBits>;
  template <int kBits>
  static void odd(const uint8_t* p, Ints* out) {
    const Ints codes = octets<kBits>(p);
    out[0] = quad<kBits>(codes);
    out[1] = quad<kBits>(shift(codes, 4 * kBits));
  }

  using Deposit = bivlm::Deposit;

  struct Decoder {
    static constexpr int64_t kReads = 64;
    int bits;
    uint8_t mask;
    explicit Decoder(int width) : bits(width), mask(uint8_t((1u << width) - 1)) {}
    void decode(const uint8_t* p, uint8_t* out) const {
      for (int i = 0; i < 8; ++i) {
        const uint64_t octet = load<uint64_t>(p + i * bits, 0);
        for (int k = 0; k < 8; ++k) out[8 * i + k] = uint8_t(octet >> k * bits) & mask;
      }
    }
  };
  static Ints index(const uint8_t* codes) {
    const uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(load<uint32_t>(codes, 0)));
    return vmovl_u16(vget_low_u16(vmovl_u8(bytes)));
  }

  static void write_table(const float* values, float low, float inverse, uint8_t* high_bytes,
                          uint8_t* low_bytes) {
    for (int i = 0; i < 16; i += 4) {
      const int32x4_t whole =
          vcvtnq_s32_f32(vmulq_n_f32(vsubq_f32(read(values + i), vdupq_n_f32(low)), inverse));
      uint32_t rounded[4];
      vst1q_u32(rounded, vreinterpretq_u32_s32(
                             vminq_s32(vmaxq_s32(whole, vdupq_n_s32(0)), vdupq_n_s32(0x3fff))));
      for (int k = 0; k < 4; ++k) {
        high_bytes[i + k] = uint8_t(rounded[k] >> 7);
        low_bytes[i + k] = uint8_t(rounded[k] & 0x7f);
      }
    }
  }

 private:
  // The first four codes of every lane, one to a byte
  template <int kBits>
  static Ints quad(Ints codes) {
    constexpr uint32_t kMask = (1u << kBits) - 1;
    const Ints first = vandq_u32(codes, vdupq_n_u32(kMask)),
               second = vandq_u32(shift_left(codes, 8 - kBits), vdupq_n_u32(kMask << 8));
    const Ints third = vandq_u32(shift_left(codes, 16 - 2 * kBits), vdupq_n_u32(kMask << 16));
    const Ints fourth = vandq_u32(shift_left(codes, 24 - 3 * kBits), vdupq_n_u32(kMask << 24));
    return vorrq_u32(vorrq_u32(first, second), vorrq_u32(third, fourth));
  }
};

}  // namespace
}  // namespace bivlm
