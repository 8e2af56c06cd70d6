// The inputs of a call, converted once into the form and order in which the kernels decode weights.
//
//   plain    float32, in order, times the column scales; zeros after the last column
//   sliced   vector k of a block holds column lane * 8 + k of the block in a lane: a lane of
//            `octets` gives its eight codes by shifting
//   bytes    int8, a scale for each token and 128 columns; ordered as the bytes are cut out of the
//            stream (byte_column below)
//
// With only one scale per token a call would be a little faster, but a single large input would
// then take the precision of all the others.
#pragma once

#include "codes/planes_layout.h"
#include "codes/task.h"
#include "codes/weight.h"
#include "isa/dtypes.h"
#include "loops.h"

namespace bivlm::codes {
namespace {

constexpr int64_t kChunk = 128;  // columns that share a scale of the int8 inputs
constexpr float kLargestByte = 127;

// How a stream of fields is cut into vectors of bytes: widths that divide eight by masks and shifts
// of whole vectors, others field by field.
constexpr int64_t byte_slices(int bits) {
  return 8 % bits == 0 ? 8 / bits : Vector::odd_slices(bits);
}

// The column, within a block, of byte i of vector k
constexpr int64_t byte_column(int bits, int64_t k, int64_t i) {
  const int64_t slices = byte_slices(bits);
  return 8 % bits == 0 ? slices * i + k : 4 * slices * (i / 4) + 4 * k + i % 4;
}

inline void prepare_plain(Task& task) {
  const bivlm_weight& w = *task.weight;
  const int64_t stride = task.plan.plain_stride, columns = w.columns;
  for (int64_t b = 0; b < task.plan.tokens; ++b) {
    float* out = task.plain + b * stride;
    int64_t j = 0;
    if (b < task.batch) {
      const int64_t first = b * task.x_stride;
      for (; j + Vector::kLanes <= columns; j += Vector::kLanes) {
        const Vector::Floats x = read_as(task.x, first + j, task.dtype);
        Vector::write(
            out + j,
            w.column_scale
                ? Vector::mul(
                      x, Vector::read_halves(reinterpret_cast<const char*>(w.column_scale) + 2 * j))
                : x);
      }
      for (; j < columns; ++j) {
        const float x = load_as(task.x, first + j, task.dtype);
        out[j] = w.column_scale ? x * float_of_half(load<uint16_t>(w.column_scale, j)) : x;
      }
    }
    for (; j < stride; ++j) out[j] = 0;
  }
}

inline float sum_of(const float* x, int64_t count) {
  Vector::Floats sums = Vector::zero();
  int64_t j = 0;
  for (; j + Vector::kLanes <= count; j += Vector::kLanes)
    sums = Vector::add(sums, Vector::read(x + j));
  float rest = 0;
  for (; j < count; ++j) rest += x[j];
  return Vector::sum(sums) + rest;
}

// Room for the groups' numbers: whole vectors of them, and one more, since a vector may begin at
// any group
inline int64_t padded_groups(const bivlm_weight& w) {
  return round_up(w.groups, Vector::kLanes) + Vector::kLanes;
}

inline void prepare_sums(Task& task) {
  const bivlm_weight& w = *task.weight;
  const int64_t stride = padded_groups(w);
  for (int64_t b = 0; b < task.plan.tokens; ++b) {
    const float* x = task.plain + b * task.plan.plain_stride;
    for (int64_t g = 0; g < stride; ++g) {
      const int64_t begin = g * w.group_size;
      task.sums[b * stride + g] =
          g < w.groups ? sum_of(x + begin, smaller(w.group_size, w.columns - begin)) : 0;
    }
  }
}

// Numbers in order as a block's slices
inline void slice_block(const Plan& plan, const float* x, float* out) {
  for (int64_t v = 0; v < plan.block_columns; v += plan.slices * Vector::kLanes) {
    for (int64_t k = 0; k < plan.slices; ++k) {
      for (int64_t i = 0; i < Vector::kLanes; ++i) *out++ = x[v + plan.slices * i + k];
    }
  }
}

inline void prepare_sliced(Task& task) {
  const Plan& plan = task.plan;
  float* out = task.sliced;
  for (int64_t b = 0; b < plan.tokens; ++b) {
    const float* x = task.plain + b * plan.plain_stride;
    for (int64_t c = 0; c < plan.blocks; ++c, out += plan.block_columns)
      slice_block(plan, x + c * plan.block_columns, out);
  }
}

// The inputs of every term of weights with planes, times its column scales
inline void prepare_terms(Task& task) {
  const bivlm_weight& w = *task.weight;
  const Plan& plan = task.plan;
  const PlaneTerms terms(*w.planes);
  float* out = task.sliced;
  for (int64_t b = 0; b < plan.tokens; ++b) {
    const float* x = task.plain + b * plan.plain_stride;
    for (int64_t j = 0; j < 64 * plan.blocks; j += 64) {
      for (int64_t t = 0; t < terms.count; ++t, out += 64) {
        const char* scales = scales_of_term(w, terms.of[t], j);
        alignas(64) float scaled[64];
        for (int64_t k = 0; k < 64; k += Vector::kLanes) {
          const Vector::Floats v = Vector::read(x + j + k);
          Vector::write(scaled + k,
                        scales ? Vector::mul(v, Vector::read_halves(scales + 2 * k)) : v);
        }
        slice_block(plan, scaled, out);
      }
    }
  }
}

// A chunk of inputs as x ~ scale * out. A non-finite input makes the scale, and so every product,
// NaN.
inline float round_chunk(const float* x, int8_t* out) {
  Vector::Floats largest = Vector::zero(), poison = Vector::zero();
  for (int64_t j = 0; j < kChunk; j += Vector::kLanes) {
    const Vector::Floats v = Vector::read(x + j);
    largest = Vector::largest(largest, Vector::magnitude(v));
    poison = Vector::fma(v, Vector::zero(), poison);
  }
  const float top = Vector::largest_of(largest), poisoned = Vector::sum(poison);
  const bool finite = poisoned == 0;
  const float scale = top / kLargestByte;
  const float inverse = finite && scale > 0 ? kLargestByte / top : 0;
  const bool usable = finite && inverse < 3e38f;
  const Vector::Floats factor = Vector::set(usable ? inverse : 0);
  for (int64_t j = 0; j < kChunk; j += Vector::kLanes)
    Vector::write_bytes(out + j,
                        usable ? Vector::mul(Vector::read(x + j), factor) : Vector::zero());
  return finite ? scale : poisoned;
}

// The sums of the rounded inputs, group by group; a group and a chunk share a run of columns.
inline void sum_bytes(const bivlm_weight& w, const int8_t* x, const float* scales, float* sums) {
  const int64_t stride = padded_groups(w);
  for (int64_t g = 0; g < stride; ++g) sums[g] = 0;
  for (int64_t j = 0; j < w.columns;) {
    const int64_t group = j / w.group_size, chunk = j / kChunk;
    const int64_t end =
        smaller(w.columns, smaller((group + 1) * w.group_size, (chunk + 1) * kChunk));
    int32_t sum = 0;
    for (; j < end; ++j) sum += x[j];
    sums[group] += float(sum) * scales[chunk];
  }
}

template <int kBits>
inline void order_bytes(const int8_t* x, int8_t* out, int64_t blocks) {
  constexpr int64_t kSlices = byte_slices(kBits), kColumns = kSlices * Vector::kBytes;
  for (int64_t c = 0; c < blocks; ++c, x += kColumns, out += kColumns) {
    for (int64_t k = 0; k < kSlices; ++k) {
      for (int64_t i = 0; i < Vector::kBytes; ++i)
        out[k * Vector::kBytes + i] = x[byte_column(kBits, k, i)];
    }
  }
}

// `ordered` (plain_stride,) and `scales` (plain_stride / kChunk,) are room for one token
inline void prepare_bytes(Task& task, int8_t* ordered, float* scales) {
  const bivlm_weight& w = *task.weight;
  const Plan& plan = task.plan;
  const int64_t width = plan.blocks * plan.block_columns, lanes = plan.blocks * Vector::kLanes;
  for (int64_t b = 0; b < plan.tokens; ++b) {
    const float* x = task.plain + b * plan.plain_stride;
    for (int64_t j = 0; j < plan.plain_stride; j += kChunk)
      scales[j / kChunk] = round_chunk(x + j, ordered + j);
    sum_bytes(w, ordered, scales, task.sums + b * padded_groups(w));
    int8_t* out = task.bytes + b * width;
    switch (w.bits) {
      case 1:
        order_bytes<1>(ordered, out, plan.blocks);
        break;
      case 2:
        order_bytes<2>(ordered, out, plan.blocks);
        break;
      case 4:
        order_bytes<4>(ordered, out, plan.blocks);
        break;
      case 8:
        order_bytes<8>(ordered, out, plan.blocks);
        break;
      case 3:
        order_bytes<3>(ordered, out, plan.blocks);
        break;
      default:
        order_bytes<5>(ordered, out, plan.blocks);  // the order of every other width
    }
    for (int64_t lane = 0; lane < lanes; ++lane)
      task.lane_scales[b * lanes + lane] = scales[lane * plan.lane_columns / kChunk];
  }
}

// The group of every lane: the numbers of the groups are distributed to lanes with it
inline void prepare_lanes(Task& task) {
  const bivlm_weight& w = *task.weight;
  const Plan& plan = task.plan;
  for (int64_t c = 0; c < plan.blocks; ++c) {
    const int64_t first = c * plan.block_columns / w.group_size;
    task.first_groups[c] = first;
    for (int64_t i = 0; i < Vector::kLanes; ++i) {
      const int64_t group = (c * plan.block_columns + i * plan.lane_columns) / w.group_size;
      task.lane_groups[c * Vector::kLanes + i] = int32_t(smaller(group, w.groups - 1) - first);
    }
  }
}

}  // namespace
}  // namespace bivlm::codes
