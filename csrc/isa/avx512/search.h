// The steps of the trellis search in AVX-512: the same costs and choices as in viterbi.h,
// bit for bit, 32 states at a time.
//
// The choice among 2^K states is a tree of minima whose comparisons are kept as bit masks. On equal
// costs the lower state wins, as in viterbi.h.
#pragma once

#include <immintrin.h>

#include "loops.h"
#include "trellis/search/viterbi.h"

namespace bivlm::search {
namespace {

template <int L, int K>
struct VectorSearch {
  using Plain = Search<L, K>;
  static constexpr int kWindow = L, kBits = K;
  static constexpr int kBranches = Plain::kBranches, kGroups = Plain::kGroups,
                       kPeriod = Plain::kPeriod;
  static constexpr bool kPaired = kGroups < 32;  // L = 8, K = 4: planes a and a + 8 share a vector
  static constexpr int kPlanes = kPaired ? kBranches / 2 : kBranches;  // vectors that compete
  static constexpr int kDepth = kPaired ? K - 1 : K;                   // of the tree
  static constexpr int kWidth = kPaired ? 1 : kGroups / 32;            // vectors of a plane
  static constexpr bool kHalved =
      kPeriod < 32 && kWidth > 2;  // L = 12, K = 4: a period is every other lane of a parted vector
  static constexpr int kMasks = kPlanes - 1 + (kPaired ? 1 : 0);
  static constexpr int kVectors = kPlanes * kWidth;

  struct Levels : Plain::Levels {
    alignas(64) int16_t vectors[Plain::kStates];
    explicit Levels(const int8_t* table) : Plain::Levels(table) {
      for (int place = 0; place < Plain::kStates; ++place)
        vectors[place] = this->natural[state_at(place)];
    }
  };

  struct Scratch : Plain::Scratch {
    alignas(64) uint16_t costs[Plain::kStates];
    uint32_t masks[kMostSteps][kWidth][kMasks];
  };

  // The state whose cost lies at a place of the vectors
  static uint32_t state_at(int place) {
    const int vector = place / 32, lane = place % 32;
    if (kPaired)
      return uint32_t(lane % 16) << K | uint32_t(vector + (lane < 16 ? 0 : kBranches / 2));
    return uint32_t(vector % kWidth * 32 + lane) << K | uint32_t(vector / kWidth);
  }

  static int place_of(uint32_t state) {
    const int a = int(state) & (kBranches - 1), q = int(state) >> K;
    if (kPaired) return a % kPlanes * 32 + q + (a < kPlanes ? 0 : 16);
    return a * kGroups + q;
  }

  // The minimum of a column of vectors, and its comparisons, from the leaves to the root
  static __m512i compete(const __m512i* cost, int stride, uint32_t* masks) {
    __m512i least[kPlanes];
    for (int a = 0; a < kPlanes; ++a) least[a] = cost[a * stride];
    for (int count = kPlanes / 2; count; count /= 2) {
      for (int i = 0; i < count; ++i) {
        *masks++ = _mm512_cmplt_epu16_mask(least[2 * i + 1], least[2 * i]);
        least[i] = _mm512_min_epu16(least[2 * i], least[2 * i + 1]);
      }
    }
    if constexpr (kPaired) {
      const __m512i other = _mm512_shuffle_i64x2(least[0], least[0], 0x4e);
      *masks = _mm512_cmplt_epu16_mask(other, least[0]);
      return _mm512_min_epu16(least[0], other);
    }
    return least[0];
  }

  // Which of the 2^K states of a group won
  static uint32_t winner(const uint32_t (*masks)[kMasks], uint32_t group) {
    const uint32_t* mine = masks[group / 32];
    uint32_t lane = group % 32;
    const uint32_t upper = kPaired ? mine[kMasks - 1] >> lane & 1 : 0;
    lane += 16 * upper;
    uint32_t node = 0;
    for (int count = 1, root = kPlanes - 2; count < kPlanes; count *= 2) {
      node = node * 2 + (mine[root + int(node)] >> lane & 1);
      root -= 2 * count;
    }
    return node + upper * (kBranches / 2);
  }

  static __m512i distances(__m512i target, __m512i level) {
    if (fineness(K) == 1) {  // a square fits 16 bits before it is cut off
      const __m512i difference = _mm512_sub_epi16(target, level);
      return _mm512_min_epu16(_mm512_mullo_epi16(difference, difference),
                              _mm512_set1_epi16(kFarthest * kFarthest));
    }
    const __m512i difference = _mm512_min_epi16(_mm512_abs_epi16(_mm512_sub_epi16(target, level)),
                                                _mm512_set1_epi16(kFarthest));
    return _mm512_mullo_epi16(difference, difference);
  }

  // Where every lane of the vectors of plane a finds its group's cost: for periods below a vector
  struct Places {
    __m512i of[kPlanes];
    Places() {
      for (int a = 0; a < kPlanes; ++a) {
        alignas(64) uint16_t place[32];
        for (int lane = 0; lane < 32; ++lane) {
          place[lane] = uint16_t(kPaired   ? a + (lane < 16 ? 0 : kBranches / 2)
                                 : kHalved ? lane % kPeriod * 2 + a / kWidth
                                           : lane % kPeriod * kBranches + a);
        }
        of[a] = _mm512_load_si512(place);
      }
    }
  };

  static __m512i spread(const Places& places, const __m512i* least, int a) {
    if constexpr (kHalved)
      return _mm512_permutexvar_epi16(places.of[a], least[Plain::reversed(a % kWidth) / 2]);
    if constexpr (kWidth == 2) return _mm512_permutex2var_epi16(least[0], places.of[a], least[1]);
    return _mm512_permutexvar_epi16(places.of[a], least[0]);
  }

  // `Size` neighbouring vectors of groups to one vector for each remainder by `Size`, at the place
  // Plain::reversed
  template <int Size>
  static void part(__m512i* v) {
    alignas(64) static const uint16_t order[64] = {
        0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40, 42,
        44, 46, 48, 50, 52, 54, 56, 58, 60, 62, 1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23,
        25, 27, 29, 31, 33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    const __m512i even = _mm512_load_si512(order), odd = _mm512_load_si512(order + 32);
    __m512i out[Size];
    BIVLM_UNROLL
    for (int i = 0; i < Size / 2; ++i) {
      out[i] = _mm512_permutex2var_epi16(v[2 * i], even, v[2 * i + 1]);
      out[Size / 2 + i] = _mm512_permutex2var_epi16(v[2 * i], odd, v[2 * i + 1]);
    }
    BIVLM_UNROLL
    for (int i = 0; i < Size; ++i) v[i] = out[i];
    if constexpr (Size > 2) {
      part<Size / 2>(v);
      part<Size / 2>(v + Size / 2);
    }
  }

  static void path(const Levels& levels, const int16_t* targets, int64_t steps, uint32_t start,
                   Scratch& s, uint32_t* windows) {
    __m512i* cost = reinterpret_cast<__m512i*>(s.costs);
    std::memset(s.costs, 0xff, sizeof s.costs);
    s.costs[place_of(start)] = 0;
    run(levels, targets, 0, Plain::kKnown, false, cost, s);
    if (far(cost)) {
      Plain::path(levels, targets, steps, start, s, windows);
      return;
    }
    run(levels, targets, Plain::kKnown, steps, true, cost, s);
    uint32_t state = best(s.costs);
    for (int64_t t = steps - 1; t >= 0; --t) {
      windows[t] = state;
      const uint32_t group = state & (kGroups - 1);
      state = group << K | winner(s.masks[t], group);
    }
    if (state != start)
      Plain::path(levels, targets, steps, start, s,
                  windows);  // outliers: a cost passed 16 bits in the first steps
  }

  static bool far(const __m512i* cost) {
    __m512i least = cost[0];
    for (int v = 1; v < kVectors; ++v) least = _mm512_min_epu16(least, cost[v]);
    return lowest_of(least) > kFarStart;
  }

  static uint16_t lowest_of(__m512i v) {
    const __m256i half =
        _mm256_min_epu16(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
    const __m128i quarter =
        _mm_min_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    return uint16_t(_mm_cvtsi128_si32(_mm_minpos_epu16(quarter)));
  }

  // Steps [begin, end); `settled`: all states can be reached, and costs are kept small
  static void run(const Levels& levels, const int16_t* targets, int64_t begin, int64_t end,
                  bool settled, __m512i* cost, Scratch& s) {
    static const Places places;
    const __m512i* level = reinterpret_cast<const __m512i*>(levels.vectors);
    __m512i lowest = _mm512_setzero_si512();
    const __m512i largest = _mm512_set1_epi16(settled ? kLargestCost : -1);
    for (int64_t t = begin; t < end; ++t) {
      const __m512i target = _mm512_set1_epi16(targets[t]);
      __m512i least[kWidth];
      __m512i low = _mm512_set1_epi16(-1);
      for (int j = 0; j < kWidth; ++j) {
        const __m512i raw = compete(cost + j, kWidth, s.masks[t][j]);
        least[j] = _mm512_min_epu16(_mm512_sub_epi16(raw, lowest), largest);
        low = _mm512_min_epu16(low, least[j]);
      }
      if (settled) lowest = _mm512_set1_epi16(short(lowest_of(low)));
      if constexpr (kPeriod >= 32) {
        for (int i = 0; i < kPeriod / 32; ++i) {
          part<kBranches>(least + i * kBranches);
          BIVLM_UNROLL
          for (int a = 0; a < kBranches; ++a) {
            const __m512i group = least[i * kBranches + Plain::reversed(a)];
            for (int b = 0; b < kBranches; ++b) {
              const int v = a * kWidth + b * (kPeriod / 32) + i;
              cost[v] = _mm512_adds_epu16(group, distances(target, level[v]));
            }
          }
        }
      } else {
        if constexpr (kHalved) part<kWidth>(least);
        for (int a = 0; a < kPlanes; ++a) {
          const __m512i group = spread(places, least, a);
          for (int j = 0; j < kWidth; ++j)
            cost[a * kWidth + j] =
                _mm512_adds_epu16(group, distances(target, level[a * kWidth + j]));
        }
      }
    }
  }

  // The state with the least cost; of several that at the first place of Plain's order, from which
  // only that of pairs differs
  static uint32_t best(const uint16_t* costs) {
    const __m512i* cost = reinterpret_cast<const __m512i*>(costs);
    __m512i all = cost[0];
    for (int v = 1; v < kVectors; ++v) all = _mm512_min_epu16(all, cost[v]);
    const __m512i least = _mm512_set1_epi16(short(lowest_of(all)));
    int upper = -1;
    for (int v = 0; v < kVectors; ++v) {
      const uint32_t found = _mm512_cmpeq_epu16_mask(cost[v], least);
      if (found & (kPaired ? 0xffffu : 0xffffffffu)) return state_at(v * 32 + __builtin_ctz(found));
      if (found && upper < 0) upper = v * 32 + __builtin_ctz(found);
    }
    return state_at(upper);
  }
};

inline Kernel vectored(int window, int k) { return search_in<VectorSearch>(window, k); }

}  // namespace
}  // namespace bivlm::search
