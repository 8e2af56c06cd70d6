// The search of a trellis: for the targets of one strip and column the path through the windows
// with the smallest sum of squared differences, by the Viterbi algorithm (Forney, Proc. IEEE 61,
// 268 (1973)), in 16-bit integers.
//
// A state is a window of L bits. K new bits enter on top and K old ones leave at the bottom: state'
// = bits << (L - K) | state >> K. The 2^K states with the same upper L - K bits q compete for the
// same successors, so a step is
//
//     least[q] = min over a of cost[q << K | a]           cost'[b << (L - K) | q] = least[q] +
//     (target - level[b << (L - K) | q])^2
//
// Costs are stored in planes by a, the lowest K bits, so both halves of the step run along memory.
// The first steps, from one known state, are separate code, so no state has to be marked as
// unreachable. This file is compiled once for every instruction set; all of them give the same
// bits.
#pragma once

#include <cstring>
#include <new>

#include "trellis/search/task.h"
#include "trellis/weight.h"

namespace bivlm::search {
namespace {

using trellis::kStrip;

constexpr int64_t kLookahead =
    16;  // rows of the next column that count for a path in addition to its own
constexpr int64_t kMostSteps = kStrip + kLookahead;
constexpr int kFarthest = 181;  // differences count as at most this: the square of it fits 15 bits
constexpr int kLargestCost = 32767;
constexpr uint32_t kReachedCost =
    65534;  // the largest after the first steps: less than that of a state that they do not reach
constexpr uint32_t kFarStart =
    32768;  // a least cost of the first steps from which they are taken relative to it

// Costs that are processed at once: a register of every 64-bit processor, or of AVX2. (Compilers
// unroll plain loops over such short arrays and process one cost at a time.)
#if defined(__AVX2__)
constexpr int kLanes = 16;
#else
constexpr int kLanes = 8;
#endif
typedef uint16_t Lanes __attribute__((vector_size(2 * kLanes), may_alias));
typedef int16_t SignedLanes __attribute__((vector_size(2 * kLanes), may_alias));
typedef uint8_t ByteLanes __attribute__((vector_size(kLanes), may_alias));

// A level of 1 in units of the search: with more bits per weight the differences are smaller, and
// must still be many units
constexpr int fineness(int k) { return k < 3 ? 1 : 2; }

template <int L, int K>
struct Search {
  static constexpr int kWindow = L, kBits = K;
  static constexpr int kStates = 1 << L, kBranches = 1 << K, kGroups = 1 << (L - K),
                       kPeriod = kGroups / kBranches;
  static constexpr int kKnown = L / K,
                       kRest = L - kKnown * K;  // steps that are written out, and the bits of the
                                                // first state that they leave

  struct Scratch {
    alignas(64) uint16_t cost[kStates];  // of state q << K | a at a * kGroups + q
    alignas(64) uint16_t least[kGroups];
    alignas(64) uint16_t parted[kGroups];
    alignas(64) uint32_t first[kStates];
    alignas(64) uint8_t branch[kMostSteps][kGroups];
    uint16_t lowest;  // the least cost after the step before: taken off in the next one, so that no
                      // step waits for it
  };

  // Levels in the search's units: by state, and in the order of the costs
  struct Levels {
    alignas(64) int16_t natural[kStates], planes[kStates];
    explicit Levels(const int8_t* table) {
      for (int state = 0; state < kStates; ++state) {
        natural[state] = int16_t(table[state] * fineness(K));
        planes[(state & (kBranches - 1)) * kGroups + (state >> K)] = natural[state];
      }
    }
  };

  static uint16_t distance(int16_t target, int16_t level) {
    int16_t difference = int16_t(target - level);
    difference = difference < 0 ? int16_t(-difference) : difference;
    difference = difference < kFarthest ? difference : int16_t(kFarthest);
    return uint16_t(difference * difference);
  }

  // The costs after the first kKnown targets, from the state `start`
  static void begin(const Levels& levels, const int16_t* targets, uint32_t start, Scratch& s) {
    uint32_t* first = s.first;
    first[0] = 0;
    for (int step = 0, count = 1; step < kKnown; ++step, count <<= K) {
      const int shift = L - (step + 1) * K;
      const int16_t* level = levels.natural + (start >> (step + 1) * K);
      for (int b = kBranches - 1; b >= 0; --b) {
        for (int c = 0; c < count; ++c)
          first[b * count + c] =
              first[c] + distance(targets[step], level[(b * count + c) << shift]);
      }
    }
    constexpr int reached = kStates >> kRest;
    uint32_t least = first[0];
    for (int c = 1; c < reached; ++c) least = first[c] < least ? first[c] : least;
    const bool far = least > kFarStart;
    if (kRest) std::memset(s.cost, 0xff, sizeof s.cost);
    for (int c = 0; c < reached; ++c) {
      const uint32_t state = start >> kKnown * K | uint32_t(c) << kRest;
      const uint32_t cost =
          far ? smaller(first[c] - least, uint32_t(kLargestCost)) : smaller(first[c], kReachedCost);
      s.cost[(state & (kBranches - 1)) * kGroups + (state >> K)] = uint16_t(cost);
    }
    s.lowest = 0;
  }

  // The best of each group's states, and its place in `branch`
  static void compete(Scratch& s, uint8_t* branch) {
    Lanes low = Lanes{} + uint16_t(0xffff);
    for (int q = 0; q < kGroups; q += kLanes) {
      const Lanes* cost = reinterpret_cast<const Lanes*>(s.cost + q);
      Lanes best = cost[0], place{};
      for (int a = 1; a < kBranches; ++a) {
        const Lanes other = cost[a * (kGroups / kLanes)];
        place = other < best ? Lanes{} + uint16_t(a) : place;
        best = other < best ? other : best;
      }
      *reinterpret_cast<ByteLanes*>(branch + q) = __builtin_convertvector(place, ByteLanes);
      best -= s.lowest;
      best = best < kLargestCost ? best : Lanes{} + uint16_t(kLargestCost);
      low = best < low ? best : low;
      *reinterpret_cast<Lanes*>(s.least + q) = best;
    }
    s.lowest = low[0];
    for (int lane = 1; lane < kLanes; ++lane)
      s.lowest = low[lane] < s.lowest ? low[lane] : s.lowest;
  }

  // Every 2^K-th of the groups' costs together, for each remainder: one bit of it after the other,
  // so that remainder a lies at the place reversed(a)
  static const uint16_t* part(Scratch& s) {
    uint16_t *from = s.least, *to = s.parted;
    for (int bit = 0, size = kGroups; bit < K; ++bit, size /= 2) {
      for (int block = 0; block < kGroups; block += size) {
        const uint16_t* __restrict in = from + block;
        uint16_t* __restrict out = to + block;
        for (int i = 0; i < size / 2; ++i) {
          out[i] = in[2 * i];
          out[size / 2 + i] = in[2 * i + 1];
        }
      }
      uint16_t* other = from;
      from = to;
      to = other;
    }
    return from;
  }

  static constexpr int reversed(int a) {
    int result = 0;
    for (int bit = 0; bit < K; ++bit) result |= (a >> bit & 1) << (K - 1 - bit);
    return result;
  }

  // The costs of groups a, a + 2^K, a + 2 * 2^K ... over and over, where they fill no more than
  // some lanes
  static void repeat(const uint16_t* least, int a, Lanes& to) {
    static_assert(kPeriod >= kLanes || kPeriod == 4 || kPeriod == 1,
                  "by registers alone: what is stored in pieces is slow to read whole");
    typedef uint64_t Words __attribute__((vector_size(2 * kLanes), may_alias));
    if constexpr (kPeriod == 1) {
      to = Lanes{} + least[a];
    } else {
      uint64_t four = 0;
      for (int i = 0; i < 4; ++i) four |= uint64_t(least[i * kBranches + a]) << 16 * i;
      to = reinterpret_cast<Lanes>(Words{} + four);
    }
  }

  // One target: the costs of all states after it
  static void step(const Levels& levels, int16_t target, Scratch& s, uint8_t* branch) {
    compete(s, branch);
    const uint16_t* parted = kPeriod < kLanes ? nullptr : part(s);
    for (int a = 0; a < kBranches;
         ++a) {  // plane a gets the costs of groups a, a + 2^K, a + 2 * 2^K ..., over and over
      const SignedLanes* level = reinterpret_cast<const SignedLanes*>(levels.planes + a * kGroups);
      Lanes* cost = reinterpret_cast<Lanes*>(s.cost + a * kGroups);
      Lanes group;
      if (kPeriod < kLanes) repeat(s.least, a, group);
      for (int q = 0; q < kGroups / kLanes; ++q) {
        if (kPeriod >= kLanes)
          group = *reinterpret_cast<const Lanes*>(parted + reversed(a) * kPeriod +
                                                  q * kLanes % kPeriod);
        SignedLanes difference = target - level[q];
        difference = difference < 0 ? -difference : difference;
        difference = difference < kFarthest ? difference : SignedLanes{} + int16_t(kFarthest);
        cost[q] = group + reinterpret_cast<Lanes>(difference * difference);
      }
    }
  }

  // The first place with the least cost
  static int least_place(const Scratch& s) {
    const Lanes* cost = reinterpret_cast<const Lanes*>(s.cost);
    Lanes low = cost[0];
    for (int i = 1; i < kStates / kLanes; ++i) low = cost[i] < low ? cost[i] : low;
    uint16_t least = low[0];
    for (int lane = 1; lane < kLanes; ++lane) least = low[lane] < least ? low[lane] : least;
    int place = 0;
    while (s.cost[place] != least) ++place;
    return place;
  }

  // The windows (steps) of the best path for the targets (steps >= 16) from the state `start`
  static void path(const Levels& levels, const int16_t* targets, int64_t steps, uint32_t start,
                   Scratch& s, uint32_t* windows) {
    begin(levels, targets, start, s);
    for (int64_t t = kKnown; t < steps; ++t) step(levels, targets[t], s, s.branch[t]);
    const int best = least_place(s);
    uint32_t state = uint32_t(best % kGroups) << K | uint32_t(best / kGroups);
    for (int64_t t = steps - 1; t >= kKnown; --t) {
      windows[t] = state;
      const uint32_t q = state & (kGroups - 1);
      state = q << K | s.branch[t][q];
    }
    const uint32_t bits = state >> kRest;
    for (int t = kKnown - 1; t >= 0; --t) {
      const int entered = (t + 1) * K;
      windows[t] = start >> entered | (bits & uint32_t((uint64_t(1) << entered) - 1))
                                          << (L - entered);
    }
  }
};

inline int16_t search_target(float w, int k) {
  const float scaled = (w < -127.0f  ? -127.0f
                        : w > 127.0f ? 127.0f
                        : w == w     ? w
                                     : 0.0f) *
                       float(fineness(k));
  return int16_t(scaled < 0.0f ? scaled - 0.5f : scaled + 0.5f);
}

template <class This>
void search_strip(const Task& task, int64_t strip, float* tile, void* scratch) {
  constexpr int K = This::kBits, L = This::kWindow;
  const auto& levels = *static_cast<const typename This::Levels*>(task.levels);
  auto& s = *static_cast<typename This::Scratch*>(scratch);
  const int64_t first = strip * kStrip, rows = smaller(kStrip, task.rows - first),
                held = smaller(kStrip, task.held - first);
  for (int64_t j = 0; j < task.columns; ++j) {
    for (int64_t r = 0; r < kStrip; ++r)
      tile[j * kStrip + r] = r < rows ? task.w[j * task.rows + first + r] : 0.0f;
  }
  int16_t targets[kMostSteps];
  uint32_t windows[kMostSteps], state = task.state[strip];
  float error[kStrip];
  for (int64_t j = 0; j < task.columns; ++j) {
    float* mine = tile + j * kStrip;
    for (int64_t r = 0; r < held; ++r) targets[r] = search_target(mine[r], K);
    const int64_t ahead = j + 1 < task.columns ? kLookahead : 0;
    for (int64_t r = 0; r < ahead; ++r) targets[held + r] = search_target(mine[kStrip + r], K);
    This::path(levels, targets, held + ahead, state, s, windows);
    state = windows[held - 1];
    for (int64_t r = 0; r < held; ++r)
      task.symbols[j * task.held + first + r] = uint8_t(windows[r] >> (L - K));
    const float* u = task.u + j * task.columns;
    for (int64_t r = 0; r < kStrip; ++r) error[r] = 0.0f;
    for (int64_t r = 0; r < rows; ++r) {
      const float chosen = float(task.table[windows[r]]);
      error[r] = (mine[r] - chosen) / u[j];
      mine[r] = chosen;
    }
    for (int64_t c = j + 1; c < task.columns; ++c) {
      for (int64_t r = 0; r < kStrip; ++r) tile[c * kStrip + r] -= u[c] * error[r];
    }
  }
  task.state[strip] = state;
  for (int64_t j = 0; j < task.columns; ++j)
    std::memcpy(task.w + j * task.rows + first, tile + j * kStrip, size_t(rows) * sizeof(float));
}

template <class This>
Kernel make_search() {
  return {int64_t(sizeof(typename This::Levels)), int64_t(sizeof(typename This::Scratch)),
          [](const int8_t* table, void* levels) { new (levels) typename This::Levels(table); },
          search_strip<This>};
}

template <template <int, int> class Of, int L>
Kernel search_of(int k) {
  return k == 1   ? make_search<Of<L, 1>>()
         : k == 2 ? make_search<Of<L, 2>>()
         : k == 3 ? make_search<Of<L, 3>>()
                  : make_search<Of<L, 4>>();
}

template <template <int, int> class Of>
Kernel search_in(int window, int k) {
  return window == 8    ? search_of<Of, 8>(k)
         : window == 12 ? search_of<Of, 12>(k)
                        : search_of<Of, 16>(k);
}

inline Kernel generic(int window, int k) { return search_in<Search>(window, k); }

}  // namespace
}  // namespace bivlm::search
