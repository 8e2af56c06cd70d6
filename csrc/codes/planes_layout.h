// Weights with planes (bivlm_planes) as vectors take them: the bits of a weight, from all planes,
// are a code of four bits, and a weight is a sum of terms, table[code] * column scale.
//
//   bit 0: the first sign      bit 1: the part      bit 2: the second sign      bit 3: salient
//
// Without column scales there is one term. A row has a table for each of its groups and terms.
#pragma once

#include "codes/planes.h"
#include "loops.h"

namespace bivlm::codes {
namespace {

enum PlaneBit { kSignBit = 1, kPartBit = 2, kSecondBit = 4, kSalientBit = 8 };

constexpr int64_t kPlaneCodes = 16;
constexpr int64_t kMostKinds = 6;  // of numbers that a group has

// Terms of a weight: one for each row of column scales, which a sign and a part have; the means; or
// all of a weight that has no column scales, without and with means.
enum PlaneTerm {
  kFirstSign,
  kFirstSignOfPart1,
  kSecondSign,
  kSecondSignOfPart1,
  kMeans,
  kAll,
  kAllCentred
};

struct PlaneTerms {
  int64_t count = 0;
  PlaneTerm of[5];

  explicit PlaneTerms(const bivlm_planes& p) {
    const bool scaled = p.column_scales, centred = p.means.dtype;
    if (!scaled) add(centred ? kAllCentred : kAll);
    if (scaled && centred) add(kMeans);
    if (scaled) add(kFirstSign);
    if (scaled && p.partition) add(kFirstSignOfPart1);
    if (scaled && p.salient) add(kSecondSign);
    if (scaled && p.salient_parts == 2) add(kSecondSignOfPart1);
  }
  int64_t floats() const { return count * kPlaneCodes; }  // of a group's tables

 private:
  void add(PlaneTerm term) { of[count++] = term; }
};

// The column scales of a term from some column on; null if it has none
inline const char* scales_of_term(const bivlm_weight& w, PlaneTerm term, int64_t column) {
  if (term >= kMeans) return nullptr;
  return reinterpret_cast<const char*>(w.planes->column_scales) +
         2 * (term * column_scales_stride(w) + column);
}

// For each code: itself, the kinds of its numbers, and the signs of its scales
struct PlaneMeaning {
  alignas(64) int32_t code[kPlaneCodes], mean[kPlaneCodes], first[kPlaneCodes], second[kPlaneCodes];
  alignas(64) float first_sign[kPlaneCodes], second_sign[kPlaneCodes];
  // The kinds of numbers that lie one after the other
  alignas(64) int32_t scale_kinds[kMostKinds * Vector::kLanes];
  alignas(64) int32_t mean_kinds[kMostKinds * Vector::kLanes];
};

// Where the bits of some columns begin in a plane of these columns only
struct PlanePlace {
  int32_t byte, shift;

  // 64 bits from there on; reads 9 bytes
  BIVLM_INLINE uint64_t bits(const uint8_t* plane) const {
    const uint8_t* place = plane + byte;
    return load<uint64_t>(place, 0) >> shift | load<uint64_t>(place + 1, 0) << (8 - shift);
  }
};

// 64 columns: those with two parts and the salient ones, and where their bits are
struct PlaneWord {
  Vector::Deposit parted, salient;
  PlanePlace partition, second_signs;
};

// In a thread's scratch
struct PlanesRow {
  // the same for all rows
  PlaneMeaning* meaning;
  PlaneWord* words;  // (ceil(columns / 64),)
  uint8_t* kinds;    // (columns,): kSalientBit where a column is
  // of the row at hand
  float *scales, *means;  // (groups, kinds)
  const uint8_t *signs, *partition, *second_signs;
  int64_t ahead_signs, ahead_partition;  // from a byte of them to what is fetched meanwhile
  uint8_t* upper;                        // upper bits of the tail's codes
  uint8_t* copies[3];  // of planes, where whole words would be read beyond the end
  int64_t bytes;       // of all
};

// Bytes of a row of a plane that are read
inline int64_t plane_reads(const bivlm_weight& w) { return 8 * ceil_div(w.columns, 64) + 9; }

inline PlanesRow planes_in(const bivlm_weight& w, uint8_t* scratch) {
  PlanesRow at{};
  if (!w.planes) return at;
  const auto take = [&](int64_t bytes) {
    uint8_t* place = scratch + at.bytes;
    at.bytes += round_up(bytes, 64);
    return place;
  };
  const auto numbers = [&](int64_t kinds) {
    return reinterpret_cast<float*>(take(4 * (w.groups * kinds + kPlaneCodes)));
  };
  const int64_t words = ceil_div(w.columns, 64);
  at.meaning = reinterpret_cast<PlaneMeaning*>(take(sizeof(PlaneMeaning)));
  at.words = reinterpret_cast<PlaneWord*>(take(words * int64_t(sizeof(PlaneWord))));
  at.kinds = take(64 * words);
  at.scales = numbers(scale_kinds(*w.planes));
  at.means = numbers(mean_kinds(*w.planes));
  at.upper = take(w.planes->tail_start ? w.columns + 2 * 64 : 0);
  for (uint8_t*& copy : at.copies) copy = take(plane_reads(w));
  return at;
}

// Whether the codes have but one bit
inline bool only_signs(const bivlm_planes& p) { return !p.partition && !p.salient; }

}  // namespace
}  // namespace bivlm::codes
