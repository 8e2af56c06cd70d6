// Tiles of a trellis in AVX-512: 16 rows of four columns at a time.
//
// Windows of 8 bits: vpermb brings the bytes that hold the windows of two rows and four columns
// into every lane of 64 bits, vpmultishiftqb cuts the eight windows out, two vpermi2b look them up
// among 256 values; the result is what vpdpbusd takes. Inputs are rounded to one signed byte, or to
// a number of 24 bits that three of them make up: the products of bytes are summed exactly.
#pragma once

#include "isa/avx512/vector.h"
#include "trellis/lookup.h"

namespace bivlm::trellis {
namespace {

struct Tiles {
  static constexpr int kFloatDigits = 3;
  static constexpr int64_t slot_bytes(int digits) { return digits == 1 ? 4 : 16; }
  static constexpr int64_t kTableBytes = 4 * 256;

  static int64_t table_bytes(const bivlm_trellis& w) { return w.window == 8 ? kTableBytes : 0; }

  static void prepare_tables(const Task& task, uint8_t* out) {
    const bivlm_trellis& w = *task.weight;
    if (w.window > 8) return;
    for (int bits = 1; bits <= BIVLM_TRELLIS_MOST_BITS; ++bits) {
      for (int i = 0; i < 256; ++i)
        out[(bits - 1) * 256 + i] = uint8_t(w.table[(bits - 1) * w.table_stride + i]) ^ 0x80;
    }
  }

  // Columns from p on, all with `bits` bits; reads up to 64 bytes beyond them
  static void decode(const Task& task, const uint8_t* p, int bits, int64_t quads,
                     const uint8_t* tables, uint8_t* tile) {
    if (task.weight->window == 12)
      return look_up<PlainTurn, 12>(task, p, bits, quads, tables, tile);
    if (task.weight->window == 16)
      return look_up<PlainTurn, 16>(task, p, bits, quads, tables, tile);
    const uint8_t* table = tables + (bits - 1) * 256;
    switch (bits) {
      case 1:
        return decode<1>(p, quads, table, tile);
      case 2:
        return decode<2>(p, quads, table, tile);
      case 3:
        return decode<3>(p, quads, table, tile);
      default:
        return decode<4>(p, quads, table, tile);
    }
  }

  // 128 inputs as scale * (number of kDigits signed bytes): `slots` gets the bytes of four inputs,
  // digit by digit, lowest first; `starts` gets the negated excess of a sum of products
  // with weights + 128. A non-finite input makes the scale, and so every product, NaN.
  template <int kDigits>
  static float digits(const float* x, uint8_t* slots, int32_t* starts) {
    constexpr float kLargest =
        kDigits == 1 ? 127.0f : 8355000.0f;  // 127 * (1 + 256 + 65536) is 8355711
    __m512 top = _mm512_setzero_ps(), poison = _mm512_setzero_ps();
    for (int64_t j = 0; j < kTileColumns; j += 16) {
      const __m512 v = _mm512_loadu_ps(x + j);
      top = _mm512_max_ps(top, _mm512_abs_ps(v));
      poison = _mm512_fmadd_ps(v, _mm512_setzero_ps(), poison);
    }
    const float largest = _mm512_reduce_max_ps(top), poisoned = _mm512_reduce_add_ps(poison);
    const float inverse = largest > 0 ? kLargest / largest : 0;
    const __m512 factor = _mm512_set1_ps(inverse < 3e38f ? inverse : 0);
    const __m512i bytes =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m512i middles = _mm512_set1_epi32(kDigits == 1 ? 0x80 : 0x808080),
                  minus = _mm512_set1_epi8(-128);
    __m512i sums = _mm512_setzero_si512();
    for (int64_t j = 0; j < kTileColumns; j += 16) {
      const __m512i number = poisoned == 0
                                 ? _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_loadu_ps(x + j), factor))
                                 : _mm512_setzero_si512();
      const __m512i turned =
          _mm512_shuffle_epi8(_mm512_xor_si512(_mm512_add_epi32(number, middles), middles), bytes);
      sums = _mm512_dpbusd_epi32(sums, minus, turned);
      if (kDigits == 1) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(slots + j), _mm512_cvtepi32_epi8(number));
      } else {
        _mm512_storeu_si512(slots + 4 * j, turned);
      }
    }
    const __m256i half =
        _mm256_add_epi32(_mm512_castsi512_si256(sums), _mm512_extracti64x4_epi64(sums, 1));
    const __m128i quarter =
        _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(starts),
                     _mm_sub_epi32(_mm_setzero_si128(), quarter));
    return poisoned == 0 ? largest / kLargest : poisoned;
  }

  // sums (kTokens, 64) += the tile times the inputs of kTokens neighbouring tokens
  template <int kDigits, int kTokens>
  static void multiply(const uint8_t* tile, int64_t quads, const uint8_t* slots,
                       const int32_t* starts, const float* scales, float* sums) {
    constexpr int kGroups = kDigits * kTokens <= 4   ? 4
                            : kDigits * kTokens <= 6 ? 2
                                                     : 1;  // of 16 rows
    constexpr int64_t kSlot = slot_bytes(kDigits), kToken = kTileColumns / 4 * kSlot;
    for (int64_t first = 0; first < 4; first += kGroups) {
      __m512i all[kGroups][kTokens][kDigits];
      BIVLM_UNROLL
      for (int g = 0; g < kGroups; ++g) {
        BIVLM_UNROLL
        for (int n = 0; n < kTokens; ++n) {
          BIVLM_UNROLL
          for (int d = 0; d < kDigits; ++d) all[g][n][d] = _mm512_set1_epi32(starts[4 * n + d]);
        }
      }
      for (int64_t q = 0; q < quads; ++q) {
        __m512i weights[kGroups];
        BIVLM_UNROLL
        for (int g = 0; g < kGroups; ++g)
          weights[g] = _mm512_loadu_si512(tile + q * kQuadBytes + (first + g) * 64);
        BIVLM_UNROLL
        for (int n = 0; n < kTokens; ++n) {
          BIVLM_UNROLL
          for (int d = 0; d < kDigits; ++d) {
            const __m512i x = _mm512_set1_epi32(load<int32_t>(slots + n * kToken + q * kSlot, d));
            BIVLM_UNROLL
            for (int g = 0; g < kGroups; ++g)
              all[g][n][d] = _mm512_dpbusd_epi32(all[g][n][d], weights[g], x);
          }
        }
      }
      BIVLM_UNROLL
      for (int n = 0; n < kTokens; ++n) {
        BIVLM_UNROLL
        for (int g = 0; g < kGroups; ++g) {
          __m512 value = _mm512_cvtepi32_ps(all[g][n][kDigits - 1]);
          BIVLM_UNROLL
          for (int d = kDigits - 2; d >= 0; --d)
            value = _mm512_fmadd_ps(value, _mm512_set1_ps(256), _mm512_cvtepi32_ps(all[g][n][d]));
          float* place = sums + n * kStrip + (first + g) * 16;
          _mm512_storeu_ps(
              place, _mm512_fmadd_ps(value, _mm512_set1_ps(scales[n]), _mm512_loadu_ps(place)));
        }
      }
    }
  }

 private:
  // Where the windows of 16 rows and four columns lie, for each of the four groups of rows in a
  // strip: bytes counted from one before the quad, for the last group from the quad itself, and
  // bits in the lanes that they are brought into
  struct Places {
    uint8_t bytes[4][64] = {}, odd_bytes[4][64] = {}, bits[64] = {}, odd_bits[64] = {};
  };

  template <int kBits>
  static constexpr Places places() {
    Places p;
    for (int i = 0; i < 64; ++i) {
      const int lane = i / 8, column = i % 8 / 2, odd = i % 8 / 4;
      const int even_row = 2 * lane * kBits + kBits,
                odd_row =
                    even_row + kBits;  // the ends of the two windows; 8 bits before them they begin
      for (int g = 0; g < 4; ++g) {
        const int quad = column * 8 * kBits + 2 * g * kBits + i % 2 + (g < 3);
        p.bytes[g][i] = uint8_t(quad + even_row / 8 - 1);
        p.odd_bytes[g][i] = uint8_t(quad + odd_row / 8 - 1);
      }
      p.bits[i] = uint8_t(16 * (i % 4) + even_row % 8 + odd * kBits);
      p.odd_bits[i] = uint8_t(16 * (i % 4) + odd_row % 8);
    }
    return p;
  }

  template <int kBits>
  static void decode(const uint8_t* p, int64_t quads, const uint8_t* table, uint8_t* tile) {
    constexpr bool kWide = kBits > 2;    // a quad has more than 64 bytes
    constexpr bool kApart = kBits == 3;  // the windows of two rows may lie in three bytes
    alignas(64) static constexpr Places kPlaces = places<kBits>();
    __m512i values[4], bytes[4], odd_bytes[4];
    BIVLM_UNROLL
    for (int i = 0; i < 4; ++i) {
      values[i] = _mm512_loadu_si512(table + 64 * i);
      bytes[i] = _mm512_load_si512(kPlaces.bytes[i]);
      odd_bytes[i] = _mm512_load_si512(kPlaces.odd_bytes[i]);
    }
    const __m512i bits = _mm512_load_si512(kPlaces.bits),
                  odd_bits = _mm512_load_si512(kPlaces.odd_bits);
    for (int64_t q = 0; q < quads; ++q, p += 32 * kBits, tile += kQuadBytes) {
      BIVLM_UNROLL
      for (int g = 0; g < 4; ++g) {
        const uint8_t* from = g < 3 ? p - 1 : p;
        const __m512i low = _mm512_loadu_si512(from),
                      high = kWide ? _mm512_loadu_si512(from + 64) : low;
        const auto gather = [&](__m512i index) {
          return kWide ? _mm512_permutex2var_epi8(low, index, high)
                       : _mm512_permutexvar_epi8(index, low);
        };
        __m512i windows = _mm512_multishift_epi64_epi8(bits, gather(bytes[g]));
        if (kApart)
          windows = _mm512_mask_multishift_epi64_epi8(windows, 0xf0f0f0f0f0f0f0f0, odd_bits,
                                                      gather(odd_bytes[g]));
        const __m512i below = _mm512_permutex2var_epi8(values[0], windows, values[1]);
        const __m512i above = _mm512_permutex2var_epi8(values[2], windows, values[3]);
        _mm512_storeu_si512(tile + 64 * g,
                            _mm512_mask_mov_epi8(below, _mm512_movepi8_mask(windows), above));
      }
    }
  }
};

}  // namespace
}  // namespace bivlm::trellis
