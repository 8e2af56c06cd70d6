// The vector operations (isa/vector_rules.h) in AVX-512 with VNNI and VBMI: 16 lanes of 32 bits, or
// 64 bytes.
//
// vpermb and vpmultishiftqb cut fields of any width out of a stream; vpermps looks 16 float32
// numbers up at once, vpshufb 64 bytes.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "numbers.h"

namespace bivlm {
namespace {

struct Vector {
  static constexpr int64_t kLanes = 16, kBytes = 64;
  static constexpr int kIndexBits = 4;         // of an index that `lookup` uses
  static constexpr int kByteBits = 8;          // of a byte that `dot` can take without overflow
  static constexpr int kWidestBytes = 8;       // widest code that the int8 paths take
  static constexpr bool kLooksUpCodes = true;  // a lookup costs less than a mask and a conversion
  static constexpr int64_t odd_slices(int bits) {
    return bits <= 4 ? 2 : 1;
  }  // vectors that `odd` decodes

  using Floats = __m512;
  using Ints = __m512i;
  using Table = __m512;

  static Floats zero() { return _mm512_setzero_ps(); }
  static Floats set(float value) { return _mm512_set1_ps(value); }
  static Floats read(const float* p) { return _mm512_loadu_ps(p); }
  static void write(float* p, Floats v) { _mm512_storeu_ps(p, v); }
  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static float sum(Floats v) { return _mm512_reduce_add_ps(v); }
  static Floats largest(Floats a, Floats b) { return _mm512_max_ps(a, b); }
  static float largest_of(Floats v) { return _mm512_reduce_max_ps(v); }
  static Floats magnitude(Floats v) { return _mm512_abs_ps(v); }

  static Floats read_halves(const void* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }
  static Floats read_bfloats(const void* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p))), 16));
  }
  static Floats read_unsigned(const void* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepu8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
  }
  static Floats read_signed(const void* p) {
    return _mm512_cvtepi32_ps(
        _mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p))));
  }
  static void write_halves(void* p, Floats v) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
  }
  // Finite numbers only.
  static void write_bfloats(void* p, Floats v) {
    const __m512i bits = _mm512_castps_si512(v),
                  odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(_mm512_add_epi32(bits, odd), _mm512_set1_epi32(0x7fff));
    _mm256_storeu_si256(static_cast<__m256i*>(p),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
  }
  // Rounded to int8; within -127 .. 127.
  static void write_bytes(int8_t* p, Floats v) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(v)));
  }

  static Ints read_ints(const int32_t* p) { return _mm512_loadu_si512(p); }
  static Ints shift(Ints v, int bits) { return _mm512_srli_epi32(v, bits); }
  static Ints mask_ints(Ints v, int mask) { return _mm512_and_si512(v, _mm512_set1_epi32(mask)); }
  static Floats convert(Ints v) { return _mm512_cvtepi32_ps(v); }

  static Table table_of_halves(const void* p) { return read_halves(p); }
  static Table table(const float* p) { return _mm512_loadu_ps(p); }
  template <int kBits>
  static Floats lookup(Table table, Ints index) {
    return _mm512_permutexvar_ps(index, table);
  }
  // p[index] for indices below kLanes; reads kLanes numbers
  static Floats spread(const float* p, Ints index) {
    return _mm512_permutexvar_ps(index, _mm512_loadu_ps(p));
  }

  // Where bit `bit` of a lane is set, and sum + x there
  using Where = __mmask16;
  static Where where(Ints v, int bit) {
    return _mm512_test_epi32_mask(v, _mm512_set1_epi32(1 << bit));
  }
  static Floats add_where(Floats sum, Where where, Floats x) {
    return _mm512_mask_add_ps(sum, where, sum, x);
  }

  // a where the bit is set, b elsewhere
  static Floats choose(Where where, Floats a, Floats b) {
    return _mm512_mask_blend_ps(where, b, a);
  }

  // Eight codes of kBits <= 4 bits in the low bits of every lane
  template <int kBits>
  static constexpr int64_t octet_reads = kBits == 3 ? 64 : 16 * kBits;
  template <int kBits>
  static Ints octets(const uint8_t* p) {
    if constexpr (kBits == 1)
      return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    if constexpr (kBits == 2)
      return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    if constexpr (kBits == 3)
      return _mm512_permutexvar_epi8(byte_pattern(3, 4), _mm512_loadu_si512(p));
    return _mm512_loadu_si512(p);
  }

  // Bytes
  static Ints read_bytes(const void* p) { return _mm512_loadu_si512(p); }
  // The same from pieces of 16 bytes that lie `step` bytes apart
  static Ints read_pieces(const uint8_t* p, int64_t step) {
    const auto piece = [p, step](int i) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i * step));
    };
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(piece(0)), piece(1), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(piece(2)), piece(3), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
  static void store_bytes(void* p, Ints v) { _mm512_storeu_si512(p, v); }
  static Ints set_bytes(int value) { return _mm512_set1_epi8(char(value)); }
  // v + value in the bytes whose bit of `flags`, lowest first, is set
  static Ints mark(Ints v, uint64_t flags, int value) {
    return _mm512_mask_add_epi8(v, flags, v, _mm512_set1_epi8(char(value)));
  }
  static Ints both(Ints a, Ints b) { return _mm512_and_si512(a, b); }
  static Ints no_ints() { return _mm512_setzero_si512(); }
  static Ints add_ints(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  static Ints shift_left(Ints v, int bits) { return _mm512_slli_epi32(v, bits); }
  static Ints shift_signed(Ints v, int bits) { return _mm512_srai_epi32(v, bits); }
  // The high half of every byte moved to its low half; the new high half may have any value
  static Ints high_nibbles(Ints v) { return _mm512_srli_epi16(v, 4); }
  // acc + the four products of a lane, unsigned bytes times signed ones
  static Ints dot(Ints acc, Ints weights, Ints x) { return _mm512_dpbusd_epi32(acc, weights, x); }
  // 16 bytes for every 16 columns of a vector: one table for all, or one for each
  static Ints byte_table(const uint8_t* p) {
    return _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Ints byte_tables(const uint8_t* p, int64_t stride, const int32_t* which) {
    __m512i tables = _mm512_castsi128_si512(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + which[0] * stride)));
    tables = _mm512_inserti32x4(
        tables, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + which[4] * stride)), 1);
    tables = _mm512_inserti32x4(
        tables, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + which[8] * stride)), 2);
    return _mm512_inserti32x4(
        tables, _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + which[12] * stride)), 3);
  }
  static Ints look_bytes(Ints table, Ints index) { return _mm512_shuffle_epi8(table, index); }

  // Fields of a width that does not divide eight; the bits above a field are anything. Three bits:
  // 128 of them, sixteen to a qword, codes 0 .. 3 of every octet in the first vector and 4 .. 7 in
  // the second. Wider ones: 64, in order.
  template <int kBits>
  static constexpr int64_t odd_reads = 64;
  template <int kBits>
  static void odd(const uint8_t* p, Ints* out) {
    const __m512i octets = _mm512_permutexvar_epi8(byte_pattern(kBits <= 4 ? 2 * kBits : kBits, 8),
                                                   _mm512_loadu_si512(p));
    if constexpr (kBits <= 4) {
      constexpr int64_t kFirst = 0x0b0a090803020100 * kBits, kFour = 0x0404040404040404 * kBits;
      out[0] = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(kFirst), octets);
      out[1] = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(kFirst + kFour), octets);
    } else {
      out[0] = _mm512_multishift_epi64_epi8(_mm512_set1_epi64(kInOrder * kBits), octets);
    }
  }

  // The lowest bits of a number put to the places that a mask sets, in order
  struct Deposit {
    uint64_t places;
    explicit Deposit(uint64_t mask) : places(mask) {}
    uint64_t operator()(uint64_t bits) const { return _pdep_u64(bits, places); }
  };

  // 64 codes of any width, in order, one to a byte
  struct Decoder {
    static constexpr int64_t kReads = 64;
    __m512i places, shifts, mask;
    explicit Decoder(int bits)
        : places(byte_pattern(bits, 8)),
          shifts(_mm512_set1_epi64(kInOrder * bits)),
          mask(_mm512_set1_epi8(char((1 << bits) - 1))) {}
    void decode(const uint8_t* p, uint8_t* out) const {
      const __m512i octets = _mm512_permutexvar_epi8(places, _mm512_loadu_si512(p));
      _mm512_storeu_si512(out,
                          _mm512_and_si512(_mm512_multishift_epi64_epi8(shifts, octets), mask));
    }
  };
  static Ints index(const uint8_t* codes) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  }

  // 16 numbers as (number - low) * inverse, rounded to 16 bits: their high and low bytes
  static void write_table(const float* values, float low, float inverse, uint8_t* high_bytes,
                          uint8_t* low_bytes) {
    const __m512 scaled = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(values), _mm512_set1_ps(low)),
                                        _mm512_set1_ps(inverse));
    const __m512i rounded =
        _mm512_min_epi32(_mm512_max_epi32(_mm512_cvtps_epi32(scaled), _mm512_setzero_si512()),
                         _mm512_set1_epi32(0xffff));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(high_bytes),
                     _mm512_cvtepi32_epi8(_mm512_srli_epi32(rounded, 8)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(low_bytes), _mm512_cvtepi32_epi8(rounded));
  }

 private:
  static constexpr int64_t kInOrder =
      0x0706050403020100;  // times a width: where the eight fields of a qword begin
  // For vpermb: byte r of group q of `size` bytes is byte q * bits + r
  static __m512i byte_pattern(int bits, int size) {
    const __m512i group = _mm512_load_si512(size == 4 ? kQuads : kOctets);
    __m512i sum = _mm512_and_si512(_mm512_load_si512(kPlaces), _mm512_set1_epi8(char(size - 1)));
    for (int i = 0; i < bits; ++i) sum = _mm512_add_epi8(sum, group);
    return sum;
  }
  alignas(64) static const uint8_t kPlaces[64];
  alignas(64) static const uint8_t kQuads[64];
  alignas(64) static const uint8_t kOctets[64];
};

#define BIVLM_EIGHT(n) n, n + 1, n + 2, n + 3, n + 4, n + 5, n + 6, n + 7
alignas(64) const uint8_t Vector::kPlaces[64] = {BIVLM_EIGHT(0),  BIVLM_EIGHT(8),  BIVLM_EIGHT(16),
                                                 BIVLM_EIGHT(24), BIVLM_EIGHT(32), BIVLM_EIGHT(40),
                                                 BIVLM_EIGHT(48), BIVLM_EIGHT(56)};
#undef BIVLM_EIGHT
#define BIVLM_FOUR(n) n, n, n, n
alignas(64) const uint8_t Vector::kQuads[64] = {
    BIVLM_FOUR(0),  BIVLM_FOUR(1),  BIVLM_FOUR(2),  BIVLM_FOUR(3), BIVLM_FOUR(4),  BIVLM_FOUR(5),
    BIVLM_FOUR(6),  BIVLM_FOUR(7),  BIVLM_FOUR(8),  BIVLM_FOUR(9), BIVLM_FOUR(10), BIVLM_FOUR(11),
    BIVLM_FOUR(12), BIVLM_FOUR(13), BIVLM_FOUR(14), BIVLM_FOUR(15)};
alignas(64) const uint8_t Vector::kOctets[64] = {
    BIVLM_FOUR(0), BIVLM_FOUR(0), BIVLM_FOUR(1), BIVLM_FOUR(1), BIVLM_FOUR(2), BIVLM_FOUR(2),
    BIVLM_FOUR(3), BIVLM_FOUR(3), BIVLM_FOUR(4), BIVLM_FOUR(4), BIVLM_FOUR(5), BIVLM_FOUR(5),
    BIVLM_FOUR(6), BIVLM_FOUR(6), BIVLM_FOUR(7), BIVLM_FOUR(7)};
#undef BIVLM_FOUR

}  // namespace
}  // namespace bivlm
