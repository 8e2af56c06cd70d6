// The vector operations (isa/vector_rules.h) in AVX2 with FMA, F16C and BMI2: 8 lanes of 32 bits,
// or 32 bytes.
//
// vpmaddubsw saturates, so bytes of weights must stay below 128. pdep extracts eight fields of any
// width from a stream at once.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "numbers.h"

namespace bivlm {
namespace {

struct Vector {
  static constexpr int64_t kLanes = 8, kBytes = 32;
  static constexpr int kIndexBits = 3;
  static constexpr int kByteBits = 7;
  static constexpr int kWidestBytes = 4;
  static constexpr bool kLooksUpCodes = false;
  static constexpr int64_t odd_slices(int) { return 2; }

  using Floats = __m256;
  using Ints = __m256i;
  struct Table {
    __m256 low, high;
  };

  static Floats zero() { return _mm256_setzero_ps(); }
  static Floats set(float value) { return _mm256_set1_ps(value); }
  static Floats read(const float* p) { return _mm256_loadu_ps(p); }
  static void write(float* p, Floats v) { _mm256_storeu_ps(p, v); }
  static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
  static Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static float sum(Floats v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }
  static Floats largest(Floats a, Floats b) { return _mm256_max_ps(a, b); }
  static float largest_of(Floats v) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
  }
  static Floats magnitude(Floats v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }

  static Floats read_halves(const void* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  static Floats read_bfloats(const void* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(
        _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))), 16));
  }
  static Floats read_unsigned(const void* p) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
  }
  static Floats read_signed(const void* p) {
    return _mm256_cvtepi32_ps(
        _mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
  }
  static void write_halves(void* p, Floats v) {
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  static void write_bfloats(void* p, Floats v) {
    const __m256i bits = _mm256_castps_si256(v),
                  odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_srli_epi32(
        _mm256_add_epi32(_mm256_add_epi32(bits, odd), _mm256_set1_epi32(0x7fff)), 16);
    _mm_storeu_si128(
        static_cast<__m128i*>(p),
        _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1)));
  }
  static void write_bytes(int8_t* p, Floats v) {
    const __m256i ints = _mm256_cvtps_epi32(v);
    const __m128i shorts =
        _mm_packs_epi32(_mm256_castsi256_si128(ints), _mm256_extracti128_si256(ints, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(shorts, shorts));
  }

  static Ints read_ints(const int32_t* p) { return read_bytes(p); }
  static Ints shift(Ints v, int bits) { return _mm256_srli_epi32(v, bits); }
  static Ints mask_ints(Ints v, int mask) { return _mm256_and_si256(v, _mm256_set1_epi32(mask)); }
  static Floats convert(Ints v) { return _mm256_cvtepi32_ps(v); }

  static Table table_of_halves(const void* p) {
    return {read_halves(p), read_halves(static_cast<const char*>(p) + 16)};
  }
  static Table table(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  // The table repeats itself after 2^kBits entries: up to three bits the lower half is enough
  template <int kBits>
  static Floats lookup(Table table, Ints index) {
    const __m256 low = _mm256_permutevar8x32_ps(table.low, index);
    if constexpr (kBits <= 3) return low;
    const __m256 high = _mm256_permutevar8x32_ps(table.high, index);
    return _mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(index, 28)));
  }
  static Floats spread(const float* p, Ints index) {
    return _mm256_permutevar8x32_ps(_mm256_loadu_ps(p), index);
  }

  using Where = __m256;
  static Where where(Ints v, int bit) {
    const __m256i mask = _mm256_set1_epi32(1 << bit);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(v, mask), mask));
  }
  static Floats add_where(Floats sum, Where where, Floats x) {
    return _mm256_add_ps(sum, _mm256_and_ps(x, where));
  }
  static Floats choose(Where where, Floats a, Floats b) { return _mm256_blendv_ps(b, a, where); }

  template <int kBits>
  static constexpr int64_t octet_reads = kBits == 3 ? 28 : 8 * kBits;
  template <int kBits>
  static Ints octets(const uint8_t* p) {
    if constexpr (kBits == 1)
      return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    if constexpr (kBits == 2)
      return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    if constexpr (kBits == 3) {
      const __m128i low = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)),
                    high = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 12));
      const __m256i places = _mm256_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1,
                                              0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1);
      return _mm256_shuffle_epi8(_mm256_set_m128i(high, low), places);
    }
    return read_bytes(p);
  }

  static Ints read_bytes(const void* p) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(p));
  }
  static Ints read_pieces(const uint8_t* p, int64_t step) {
    return _mm256_set_m128i(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + step)),
                            _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static void store_bytes(void* p, Ints v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
  static Ints set_bytes(int value) { return _mm256_set1_epi8(char(value)); }
  static Ints mark(Ints v, uint64_t flags, int value) {
    const __m256i octets = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202,
                                              0x0303030303030303),
                  bits = _mm256_set1_epi64x(int64_t(0x8040201008040201));
    const __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(int(flags)), octets),
                  set = _mm256_cmpeq_epi8(_mm256_and_si256(spread, bits), bits);
    return _mm256_add_epi8(v, _mm256_and_si256(set, set_bytes(value)));
  }
  static Ints both(Ints a, Ints b) { return _mm256_and_si256(a, b); }
  static Ints no_ints() { return _mm256_setzero_si256(); }
  static Ints add_ints(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
  static Ints shift_left(Ints v, int bits) { return _mm256_slli_epi32(v, bits); }
  static Ints shift_signed(Ints v, int bits) { return _mm256_srai_epi32(v, bits); }
  static Ints high_nibbles(Ints v) { return _mm256_srli_epi16(v, 4); }
  static Ints dot(Ints acc, Ints weights, Ints x) {
    return _mm256_add_epi32(
        acc, _mm256_madd_epi16(_mm256_maddubs_epi16(weights, x), _mm256_set1_epi16(1)));
  }
  static Ints byte_table(const uint8_t* p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Ints byte_tables(const uint8_t* p, int64_t stride, const int32_t* which) {
    return _mm256_set_m128i(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + which[4] * stride)),
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + which[0] * stride)));
  }
  static Ints look_bytes(Ints table, Ints index) { return _mm256_shuffle_epi8(table, index); }

  // 64 fields in two vectors: codes 0 .. 3 of every octet in the first, 4 .. 7 in the second
  template <int kBits>
  static constexpr int64_t odd_reads = octet_reads<kBits>;
  template <int kBits>
  static void odd(const uint8_t* p, Ints* out) {
    const Ints codes = octets<kBits>(p);
    out[0] = quad<kBits>(codes);
    out[1] = quad<kBits>(_mm256_srli_epi32(codes, 4 * kBits));
  }

  struct Deposit {
    uint64_t places;
    explicit Deposit(uint64_t mask) : places(mask) {}
    uint64_t operator()(uint64_t bits) const { return _pdep_u64(bits, places); }
  };

  struct Decoder {
    static constexpr int64_t kReads = 64;
    int bits;
    uint64_t mask;
    explicit Decoder(int width)
        : bits(width), mask(uint64_t{0x0101010101010101} * ((1u << width) - 1)) {}
    void decode(const uint8_t* p, uint8_t* out) const {
      for (int i = 0; i < 8; ++i)
        store<uint64_t>(out, i, _pdep_u64(load<uint64_t>(p + i * bits, 0), mask));
    }
  };
  static Ints index(const uint8_t* codes) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes)));
  }

  static void write_table(const float* values, float low, float inverse, uint8_t* high_bytes,
                          uint8_t* low_bytes) {
    const __m256 lows = _mm256_set1_ps(low), inverses = _mm256_set1_ps(inverse);
    __m256i rounded[2];
    for (int i = 0; i < 2; ++i) {
      const __m256i whole = _mm256_cvtps_epi32(
          _mm256_mul_ps(_mm256_sub_ps(_mm256_loadu_ps(values + 8 * i), lows), inverses));
      rounded[i] = _mm256_min_epi32(_mm256_max_epi32(whole, _mm256_setzero_si256()),
                                    _mm256_set1_epi32(0x3fff));
    }
    write_16(high_bytes, _mm256_srli_epi32(rounded[0], 7), _mm256_srli_epi32(rounded[1], 7));
    const __m256i mask = _mm256_set1_epi32(0x7f);
    write_16(low_bytes, _mm256_and_si256(rounded[0], mask), _mm256_and_si256(rounded[1], mask));
  }

 private:
  // The first four codes of every lane, one to a byte; the bits above a code are zero
  template <int kBits>
  static __m256i quad(__m256i codes) {
    constexpr int kMask = (1 << kBits) - 1;
    const __m256i first = _mm256_and_si256(codes, _mm256_set1_epi32(kMask));
    const __m256i second =
        _mm256_and_si256(_mm256_slli_epi32(codes, 8 - kBits), _mm256_set1_epi32(kMask << 8));
    const __m256i third =
        _mm256_and_si256(_mm256_slli_epi32(codes, 16 - 2 * kBits), _mm256_set1_epi32(kMask << 16));
    const __m256i fourth =
        _mm256_and_si256(_mm256_slli_epi32(codes, 24 - 3 * kBits), _mm256_set1_epi32(kMask << 24));
    return _mm256_or_si256(_mm256_or_si256(first, second), _mm256_or_si256(third, fourth));
  }
  static void write_16(uint8_t* p, __m256i first, __m256i second) {
    const __m256i shorts = _mm256_permute4x64_epi64(_mm256_packus_epi32(first, second), 0xd8);
    _mm_storeu_si128(
        reinterpret_cast<__m128i*>(p),
        _mm_packus_epi16(_mm256_castsi256_si128(shorts), _mm256_extracti128_si256(shorts, 1)));
  }
};

}  // namespace
}  // namespace bivlm
