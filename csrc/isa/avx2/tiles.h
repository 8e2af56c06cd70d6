// Tiles of a trellis in AVX2: weights are looked up, several rows at once, and multiplied as
// numbers of 16 bits (vpmaddwd).
#pragma once

#include "isa/avx2/vector.h"
#include "trellis/digits.h"

namespace bivlm::trellis {
namespace {

// Rows that were looked up together, into a tile
struct Turn {
  static void fours(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint8_t* out) {
    const __m128i rows = _mm_insert_epi32(
        _mm_insert_epi32(_mm_insert_epi32(_mm_cvtsi32_si128(int(a)), int(b), 1), int(c), 2), int(d),
        3);
    const __m128i turned =
        _mm_shuffle_epi8(rows, _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), turned);
  }
  static void pairs(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t e, uint32_t f,
                    uint32_t g, uint32_t h, uint8_t* out) {
    __m128i rows = _mm_insert_epi16(
        _mm_insert_epi16(_mm_insert_epi16(_mm_cvtsi32_si128(int(a)), int(b), 1), int(c), 2), int(d),
        3);
    rows = _mm_insert_epi16(
        _mm_insert_epi16(_mm_insert_epi16(_mm_insert_epi16(rows, int(e), 4), int(f), 5), int(g), 6),
        int(h), 7);
    const __m128i turned =
        _mm_shuffle_epi8(rows, _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), turned);
  }
};

struct Tiles : WideTiles<Turn> {
  // sums (kTokens, 64) += the tile times the inputs of kTokens neighbouring tokens
  template <int kDigits, int kTokens>
  static void multiply(const uint8_t* tile, int64_t quads, const uint8_t* slots,
                       const int32_t* starts, const float* scales, float* sums) {
    constexpr int kGroups = kDigits * kTokens == 1   ? 4
                            : kDigits * kTokens == 2 ? 2
                                                     : 1;  // of 8 rows
    constexpr int64_t kSlot = slot_bytes(kDigits), kToken = kTileColumns / 4 * kSlot;
    for (int64_t first = 0; first < 8; first += kGroups) {
      __m256i low[kGroups][kTokens][kDigits],
          high[kGroups][kTokens][kDigits];  // rows 0, 1, 4, 5 and rows 2, 3, 6, 7: two sums each
      BIVLM_UNROLL
      for (int g = 0; g < kGroups; ++g) {
        BIVLM_UNROLL
        for (int n = 0; n < kTokens; ++n) {
          BIVLM_UNROLL
          for (int d = 0; d < kDigits; ++d)
            low[g][n][d] = high[g][n][d] = _mm256_set1_epi64x(uint32_t(starts[4 * n + d]));
        }
      }
      for (int64_t q = 0; q < quads; ++q) {
        BIVLM_UNROLL
        for (int g = 0; g < kGroups; ++g) {
          const __m256i weights = _mm256_loadu_si256(
              reinterpret_cast<const __m256i*>(tile + q * kQuadBytes + (first + g) * 32));
          const __m256i near = _mm256_unpacklo_epi8(weights, _mm256_setzero_si256()),
                        far = _mm256_unpackhi_epi8(weights, _mm256_setzero_si256());
          BIVLM_UNROLL
          for (int n = 0; n < kTokens; ++n) {
            BIVLM_UNROLL
            for (int d = 0; d < kDigits; ++d) {
              const __m256i x =
                  _mm256_set1_epi64x(load<int64_t>(slots + n * kToken + q * kSlot, d));
              low[g][n][d] = _mm256_add_epi32(low[g][n][d], _mm256_madd_epi16(near, x));
              high[g][n][d] = _mm256_add_epi32(high[g][n][d], _mm256_madd_epi16(far, x));
            }
          }
        }
      }
      BIVLM_UNROLL
      for (int n = 0; n < kTokens; ++n) {
        BIVLM_UNROLL
        for (int g = 0; g < kGroups; ++g) {
          __m256 value = _mm256_cvtepi32_ps(
              _mm256_hadd_epi32(low[g][n][kDigits - 1], high[g][n][kDigits - 1]));
          if (kDigits == 2)
            value =
                _mm256_fmadd_ps(value, _mm256_set1_ps(65536),
                                _mm256_cvtepi32_ps(_mm256_hadd_epi32(low[g][n][0], high[g][n][0])));
          float* place = sums + n * kStrip + (first + g) * 8;
          _mm256_storeu_ps(
              place, _mm256_fmadd_ps(value, _mm256_set1_ps(scales[n]), _mm256_loadu_ps(place)));
        }
      }
    }
  }
};

}  // namespace
}  // namespace bivlm::trellis
