// A row with planes before its expansion: the tables of its groups.
#pragma once

#include <new>

#include "codes/row_affine.h"

namespace bivlm::codes {
namespace {

inline PlanePlace place_of_bit(int64_t bit) { return {int32_t(bit / 8), int32_t(bit % 8)}; }

// What all rows of a weight have in common
inline void set_planes(const bivlm_weight& w, const PlanesRow& at) {
  const bivlm_planes& p = *w.planes;
  for (int32_t code = 0; code < kPlaneCodes; ++code) {
    const bool salient = code & kSalientBit;
    const int part = is_parted(p, salient) && code & kPartBit;
    at.meaning->code[code] = code;
    at.meaning->mean[code] = (salient ? p.parts : 0) + part;
    at.meaning->first[code] = salient ? p.parts + 2 * part : part;
    at.meaning->second[code] = at.meaning->first[code] + salient;
    at.meaning->first_sign[code] = code & kSignBit ? 1.0f : -1.0f;
    at.meaning->second_sign[code] = code & kSecondBit ? 1.0f : -1.0f;
  }
  for (int64_t k = 0; k < kMostKinds * Vector::kLanes; ++k) {
    at.meaning->scale_kinds[k] = int32_t(k % scale_kinds(p));
    at.meaning->mean_kinds[k] = int32_t(k % mean_kinds(p));
  }
  int64_t parted = 0, salients = 0;
  for (int64_t c = 0; 64 * c < w.columns; ++c) {
    const int64_t left = w.columns - 64 * c;
    const uint64_t inside = left < 64 ? (uint64_t{1} << left) - 1 : ~uint64_t{0},
                   salient = p.salient ? columns_of_word(p.salient, w.columns, c) : 0,
                   two = (is_parted(p, true) ? salient : 0) |
                         (is_parted(p, false) ? inside & ~salient : 0);
    new (at.words + c) PlaneWord{Vector::Deposit(two), Vector::Deposit(salient),
                                 place_of_bit(parted), place_of_bit(salients)};
    parted += __builtin_popcountll(two), salients += __builtin_popcountll(salient);
    for (int64_t k = 0; k < 64; k += Vector::kBytes) {
      Vector::store_bytes(at.kinds + 64 * c + k,
                          Vector::mark(Vector::no_ints(), salient >> k, kSalientBit));
    }
  }
  for (uint8_t* copy : at.copies) std::memset(copy, 0, size_t(plane_reads(w)));
}

// Numbers of some kinds of all groups of row i, as number_of_kind gives them; kind_of[k] is k %
// kinds
inline void set_numbers(const bivlm_weight& w, const bivlm_numbers& numbers, int64_t kinds,
                        const int32_t* kind_of, int64_t i, float* out) {
  const int64_t count = w.groups * kinds, first = i * count,
                whole = smaller(count, w.rows * count - first - Vector::kLanes + 1);
  const bool eight = numbers.dtype > BIVLM_NUMBERS_FLOAT16;
  alignas(64) float units[kPlaneCodes] = {};
  for (int64_t k = 0; k < kinds; ++k)
    units[k] = eight ? float_of_half(load<uint16_t>(numbers.unit, i * kinds + k)) : 1.0f;
  const Vector::Table table = Vector::table(units);
  int64_t k = 0;
  for (int64_t unit = 0; k < whole; k += Vector::kLanes) {
    const Vector::Floats stored = read_numbers(numbers, first + k),
                         one = Vector::lookup<4>(table, Vector::read_ints(kind_of + unit));
    Vector::write(out + k, Vector::mul(Vector::mul(stored, one), Vector::set(w.scale)));
    unit = unit + Vector::kLanes < kinds * Vector::kLanes ? unit + Vector::kLanes : 0;
  }
  for (; k < count; ++k) out[k] = number_at(numbers, first + k, i * kinds + k % kinds) * w.scale;
}

// The tables of one term for all groups of a row, from the numbers at `at`. The roundings are those
// of the definition, since a sign times a scale is exact; where a term has nothing its entry is 0.
template <PlaneTerm kTerm>
inline void set_term_tables(const bivlm_weight& w, const PlanesRow& at, int64_t step,
                            float* tables) {
  using V = Vector;
  const bivlm_planes& p = *w.planes;
  const int64_t scales = scale_kinds(p), means = mean_kinds(p);
  const PlaneMeaning& meaning = *at.meaning;
  for (int64_t k = 0; k < kPlaneCodes; k += V::kLanes) {
    const V::Ints code = V::read_ints(meaning.code + k), mean = V::read_ints(meaning.mean + k),
                  first = V::read_ints(meaning.first + k),
                  second = V::read_ints(meaning.second + k);
    const V::Floats first_sign = V::read(meaning.first_sign + k),
                    second_sign = V::read(meaning.second_sign + k), nothing = V::zero();
    const V::Where part = V::where(code, 1), salient = V::where(code, 3);
    float* out = tables + k;
    for (int64_t g = 0; g < w.groups; ++g, out += step) {
      const V::Table numbers = V::table(at.scales + g * scales),
                     centres = V::table(at.means + g * means);
      const V::Floats one = V::mul(V::lookup<4>(numbers, first), first_sign),
                      two = V::mul(V::lookup<4>(numbers, second), second_sign);
      if constexpr (kTerm == kMeans) V::write(out, V::lookup<4>(centres, mean));
      if constexpr (kTerm == kFirstSign) V::write(out, V::choose(part, nothing, one));
      if constexpr (kTerm == kFirstSignOfPart1) V::write(out, V::choose(part, one, nothing));
      if constexpr (kTerm == kSecondSign)
        V::write(out, V::choose(salient, V::choose(part, nothing, two), nothing));
      if constexpr (kTerm == kSecondSignOfPart1)
        V::write(out, V::choose(salient, V::choose(part, two, nothing), nothing));
      if constexpr (kTerm == kAll) V::write(out, V::choose(salient, V::add(one, two), one));
      if constexpr (kTerm == kAllCentred) {
        const V::Floats ordinary = V::add(V::lookup<4>(centres, mean), one);
        V::write(out, V::choose(salient, V::add(ordinary, two), ordinary));
      }
    }
  }
}

inline void set_tables_of(PlaneTerm term, const bivlm_weight& w, const PlanesRow& at, int64_t step,
                          float* tables) {
  switch (term) {
    case kFirstSign:
      return set_term_tables<kFirstSign>(w, at, step, tables);
    case kFirstSignOfPart1:
      return set_term_tables<kFirstSignOfPart1>(w, at, step, tables);
    case kSecondSign:
      return set_term_tables<kSecondSign>(w, at, step, tables);
    case kSecondSignOfPart1:
      return set_term_tables<kSecondSignOfPart1>(w, at, step, tables);
    case kMeans:
      return set_term_tables<kMeans>(w, at, step, tables);
    case kAll:
      return set_term_tables<kAll>(w, at, step, tables);
    case kAllCentred:
      return set_term_tables<kAllCentred>(w, at, step, tables);
  }
}

// The tables of all groups of row i: (groups, terms, kPlaneCodes)
inline void set_plane_tables(const bivlm_weight& w, int64_t i, const PlanesRow& at, float* tables) {
  const bivlm_planes& p = *w.planes;
  const PlaneTerms terms(p);
  set_numbers(w, w.scales, scale_kinds(p), at.meaning->scale_kinds, i, at.scales);
  if (p.means.dtype) set_numbers(w, p.means, mean_kinds(p), at.meaning->mean_kinds, i, at.means);
  for (int64_t t = 0; t < terms.count; ++t)
    set_tables_of(terms.of[t], w, at, terms.floats(), tables + t * kPlaneCodes);
}

// The planes of row i, readable in whole words
inline void set_plane_streams(const bivlm_weight& w, int64_t i, PlanesRow& at) {
  const bivlm_planes& p = *w.planes;
  const auto row = [&](const uint8_t* plane, int64_t row_bytes, uint8_t* copy) {
    return plane ? readable(plane + i * row_bytes, plane + w.rows * row_bytes, plane_reads(w), copy)
                 : copy;
  };
  at.ahead_signs = kBlockRows * w.row_bytes, at.ahead_partition = kBlockRows * p.partition_bytes;
  at.signs = row(w.codes, w.row_bytes, at.copies[0]);
  at.partition = row(p.partition, p.partition_bytes, at.copies[1]);
  at.second_signs = row(p.second_signs, p.second_bytes, at.copies[2]);
}

// The codes of columns 64c .. 64c + 63, one to a byte: 64 / kBytes vectors. `common` is of any row.
// `kPlain`: ordinary columns of one part.
template <bool kPlain>
BIVLM_INLINE inline void plane_codes(const PlanesRow& common, const PlanesRow& row, int64_t c,
                                     Vector::Ints* out) {
  using V = Vector;
  const uint64_t sign = load<uint64_t>(row.signs, c);
  __builtin_prefetch(row.signs + 8 * c + row.ahead_signs);
  uint64_t part = 0, second = 0;
  if constexpr (!kPlain) {
    const PlaneWord& word = common.words[c];
    __builtin_prefetch(row.partition + word.partition.byte + row.ahead_partition);
    part = word.parted(word.partition.bits(row.partition));
    second = word.salient(word.second_signs.bits(row.second_signs));
  }
  BIVLM_UNROLL
  for (int v = 0; v < int(64 / V::kBytes); ++v) {
    const int first = v * int(V::kBytes);
    if constexpr (kPlain) {
      out[v] = V::mark(V::no_ints(), sign >> first, kSignBit);
    } else {
      out[v] = V::mark(V::read_bytes(common.kinds + 64 * c + first), sign >> first, kSignBit);
      out[v] = V::mark(out[v], part >> first, kPartBit);
      out[v] = V::mark(out[v], second >> first, kSecondBit);
    }
  }
}

}  // namespace
}  // namespace bivlm::codes
