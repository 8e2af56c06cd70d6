// What the kind `plane` may have besides signs (bivlm_planes): its weights, one number at a time,
// and the conditions for a valid weight.
#pragma once

#include "codes/fields.h"

namespace bivlm::codes {
namespace {

inline bool bit_at(const uint8_t* stream, int64_t i) { return stream[i / 8] >> i % 8 & 1; }

inline bool is_salient(const bivlm_planes& p, int64_t column) {
  return p.salient && bit_at(p.salient, column);
}

// Columns 64c .. 64c + 63 of a stream of one bit for each of `columns`; zeros after the last
inline uint64_t columns_of_word(const uint8_t* stream, int64_t columns, int64_t c) {
  const int64_t left = smaller(64, columns - 64 * c);
  uint64_t word = 0;
  std::memcpy(&word, stream + 8 * c, size_t(ceil_div(left, 8)));
  return left < 64 ? word & ((uint64_t{1} << left) - 1) : word;
}

// Whether the weights of a kind of column belong to two parts
inline bool is_parted(const bivlm_planes& p, bool salient) {
  return (salient ? p.salient_parts : p.parts) == 2;
}

inline int64_t scale_kinds(const bivlm_planes& p) { return p.parts + 2 * p.salient_parts; }
inline int64_t mean_kinds(const bivlm_planes& p) { return p.parts + p.salient_parts; }

// The number of a kind, times the weight's scale
inline float number_of_kind(const bivlm_weight& w, const bivlm_numbers& numbers, int64_t kinds,
                            int64_t row, int64_t group, int64_t kind) {
  return number_at(numbers, (row * w.groups + group) * kinds + kind, row * kinds + kind) * w.scale;
}

inline int64_t column_scales_stride(const bivlm_weight& w) {
  return round_up(w.columns, BIVLM_PLANES_WORD);
}

// The column scale of the first or the second sign, 1 if there is none
inline float column_scale_of(const bivlm_weight& w, int64_t sign, int64_t part, int64_t column) {
  if (!w.planes->column_scales) return 1;
  const int64_t at = (2 * sign + part) * column_scales_stride(w) + column;
  return float_of_half(load<uint16_t>(w.planes->column_scales, at));
}

// The code of tail entry e
inline int planes_tail_code(const bivlm_weight& w, int64_t row, int64_t e, int64_t column) {
  const int64_t bit = 7 * e;
  int upper = w.planes->tail_bits[bit / 8] >> bit % 8;
  if (bit % 8 > 1) upper |= w.planes->tail_bits[bit / 8 + 1] << (8 - bit % 8);
  return (upper & 127) << 1 | code_at(w, row, column);
}

// What a tail's codes mean in a row
struct TailScale {
  float scale, zero;

  TailScale(const bivlm_weight& w, int64_t row)
      : scale(float_of_half(load<uint16_t>(w.planes->tail_scale, row)) * w.scale),
        zero(float_of_half(load<uint16_t>(w.planes->tail_zero, row))) {}
  float value(int code) const { return scale * (float(code) - zero); }
};

// value(e, column) of the tail entries of a row, over what its planes say there
template <class Value>
inline void put_tail(const bivlm_planes& p, int64_t row, const Value& value, float* out) {
  const uint8_t* const end = p.tail_steps + load<int64_t>(p.tail_step_start, row + 1);
  int64_t e = load<int64_t>(p.tail_start, row);
  uint64_t column = uint64_t(-1);
  for (const uint8_t* step = p.tail_steps + load<int64_t>(p.tail_step_start, row); step < end;
       ++step) {
    column += *step ? *step : BIVLM_PLANES_LEAP;
    if (*step) out[column] = value(e++, column);
  }
}

// A row of weights
inline void planes_row(const bivlm_weight& w, int64_t row, float* out) {
  const bivlm_planes& p = *w.planes;
  const int64_t scales = scale_kinds(p), means = mean_kinds(p);
  int64_t parted = 0, salients = 0;
  for (int64_t j = 0; j < w.columns; ++j) {
    const bool salient = is_salient(p, j);
    const int64_t group = j / w.group_size,
                  part = is_parted(p, salient)
                             ? bit_at(p.partition + row * p.partition_bytes, parted++)
                             : 0,
                  kind = salient ? p.parts + 2 * part : part;
    const float first =
        number_of_kind(w, w.scales, scales, row, group, kind) * column_scale_of(w, 0, part, j);
    out[j] = code_at(w, row, j) ? first : -first;
    if (p.means.dtype)
      out[j] =
          number_of_kind(w, p.means, means, row, group, salient ? p.parts + part : part) + out[j];
    if (!salient) continue;
    const float second =
        number_of_kind(w, w.scales, scales, row, group, kind + 1) * column_scale_of(w, 1, part, j);
    out[j] += bit_at(p.second_signs + row * p.second_bytes, salients++) ? second : -second;
  }
  if (!p.tail_start) return;
  const TailScale scale(w, row);
  const auto value = [&](int64_t e, uint64_t column) {
    return scale.value(planes_tail_code(w, row, e, int64_t(column)));
  };
  put_tail(p, row, value, out);
}

inline int check_planes_tail(const bivlm_weight& w) {
  const bivlm_planes& p = *w.planes;
  if (!p.tail_start) return 0;
  if (p.parts != 1 || p.salient_parts || !p.tail_step_start || !p.tail_scale || !p.tail_zero)
    return BIVLM_ERROR_WEIGHT;
  return load<int64_t>(p.tail_step_start, w.rows) > 0 && (!p.tail_steps || !p.tail_bits)
             ? BIVLM_ERROR_WEIGHT
             : 0;
}

inline int check_planes(const bivlm_weight& w) {
  const bivlm_planes& p = *w.planes;
  if (p.parts < 1 || p.parts > 2 || p.salient_parts < 0 || p.salient_parts > 2 ||
      (p.salient_parts > 0) != (p.salient != nullptr))
    return BIVLM_ERROR_WEIGHT;
  if (!w.scales.dtype || !known_numbers(w.scales) || !known_numbers(p.means))
    return BIVLM_ERROR_WEIGHT;
  int64_t salient = 0;
  for (int64_t c = 0; 64 * c < w.columns && p.salient; ++c)
    salient += __builtin_popcountll(columns_of_word(p.salient, w.columns, c));
  const int64_t parted = is_parted(p, false) * (w.columns - salient) + is_parted(p, true) * salient;
  if ((parted && !p.partition) || (salient && !p.second_signs)) return BIVLM_ERROR_WEIGHT;
  if (p.partition_bytes < ceil_div(parted, 8) || p.second_bytes < ceil_div(salient, 8))
    return BIVLM_ERROR_SHAPE;
  return check_planes_tail(w);
}

}  // namespace
}  // namespace bivlm::codes
