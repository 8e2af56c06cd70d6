// The products with weights of codes in one instruction set: which path a weight takes, where a
// call's inputs lie in its scratch, and the loop over the rows.
//
//   path          weights                                  groups of columns
//   kByteTable    levels of 2 to 4 bits, int8 inputs       whole lane quads, or one group; not
//                                                          small_tables
//   kByteAffine   all other widths up to kWidestBytes,     whole lanes, or one group
//                 int8 inputs
//   kByteBlocks   signs with their scales between them,    128, in whole blocks of columns
//                 int8 inputs
//   kFloatTable   levels of 2 to 4 bits                    whole blocks, or one group
//                 uniform of 2 to 4 bits                   one group
//   kFloatAffine  one bit; uniform of 2 to 4 bits          multiples of 8, or one group
//   kFloatPlanes  signs with more planes or numbers,       multiples of 64, or one group
//                 without a tail; few tokens
//   kDense        anything else
//
// A file of an instruction set includes its vector.h and then this one (isa/generic.h). Everything
// here is that file's own: see numbers.h.
#pragma once

#include "codes/products_byte.h"
#include "codes/products_float.h"

namespace bivlm::codes {
namespace {

template <class T>
inline T* take(uint8_t* scratch, int64_t& offset, int64_t count) {
  T* place = reinterpret_cast<T*>(scratch + offset);
  offset += round_up(count * int64_t(sizeof(T)), 64);
  return place;
}

constexpr int64_t kNear = 1024;  // data closer than this is read before a prefetch could finish

inline void set_blocks(const bivlm_weight& w, Plan& plan, int64_t slices, int64_t columns) {
  plan.slices = slices;
  plan.block_columns = columns;
  plan.lane_columns = columns / V::kLanes;
  plan.blocks = ceil_div(w.columns, columns);
  plan.block_bytes = columns * w.bits / 8;
  plan.read_bytes = plan.block_bytes;
  plan.ahead_bytes = larger(kBlockRows * w.row_bytes, kNear);
  plan.steady = plan.whole || w.group_size % columns == 0;
}

inline int64_t odd_reads(int bits) {
  return bits == 3 ? V::odd_reads<3> : 64;  // wider ones are only there where a vector has 64 bytes
}

// If every row has its own tables for small groups, tables of bytes cost more to make than they
// save; float tables are cheaper.
constexpr int64_t kSmallGroup = 512;

inline bool small_tables(const bivlm_weight& w, const Plan& plan) {
  return !plan.whole && w.table_rows > 1 && w.group_size < kSmallGroup &&
         w.group_size % (8 * V::kLanes) == 0;
}

// Whether an int8 path supports the weight
inline bool plan_bytes(const bivlm_weight& w, Plan& plan) {
  const int64_t slices = byte_slices(w.bits), lane = 4 * slices;
  const bool table = w.kind == BIVLM_KIND_LEVELS && w.bits > 1;
  if (w.bits > V::kWidestBytes || !(plan.whole || w.group_size % (table ? 4 * lane : lane) == 0))
    return false;
  if (table && small_tables(w, plan)) return false;
  plan.path = table ? Path::kByteTable : Path::kByteAffine;
  plan.table_floats = table ? (w.bits == 2 ? 2 * kTable : kTable) : 0;
  set_blocks(w, plan, slices, slices * V::kBytes);
  if (8 % w.bits) plan.read_bytes = odd_reads(w.bits);
  if (w.group_bytes && w.group_size == kChunk && w.columns % plan.block_columns == 0) {
    plan.path = Path::kByteBlocks;
    plan.whole = false;
    plan.steady = w.group_size % plan.block_columns == 0;
    plan.block_bytes = plan.block_columns / w.group_size * w.group_bytes;
    plan.read_bytes = 0;
  }
  return true;
}

inline void plan_floats(const bivlm_weight& w, int64_t batch, Plan& plan) {
  const int64_t block = 8 * V::kLanes;
  const bool blocks = plan.whole || w.group_size % block == 0,
             octets = plan.whole || w.group_size % 8 == 0;
  plan.path = Path::kDense;
  if (w.bits <= 4 && w.bits > 1 && (plan.whole || (blocks && w.kind == BIVLM_KIND_LEVELS)))
    plan.path = Path::kFloatTable;
  if (plan.path == Path::kDense && octets && !w.planes &&
      (w.bits == 1 || (w.bits <= 4 && w.kind == BIVLM_KIND_UNIFORM)))
    plan.path = Path::kFloatAffine;
  if (w.planes && !w.planes->tail_start && batch <= kBlockTokens &&
      (plan.whole || w.group_size % 64 == 0)) {
    plan.path = Path::kFloatPlanes;
    plan.terms = PlaneTerms(*w.planes).count;
    plan.table_floats = PlaneTerms(*w.planes).floats();
    plan.plain = only_signs(*w.planes);
    set_blocks(w, plan, 4, 64);
    return;
  }
  set_blocks(w, plan, 8, block);
  if (w.bits == 3) plan.read_bytes = V::octet_reads<3>;
  plan.table_floats = plan.path == Path::kFloatTable ? (w.bits == 2 ? 2 * kTable : kTable) : 0;
  if (plan.path == Path::kDense) plan.table_floats = dense_plan(w).table_floats;
}

constexpr bool takes_bytes(Path path) {
  return path == Path::kByteAffine || path == Path::kByteBlocks || path == Path::kByteTable;
}
constexpr bool takes_sliced(Path path) {
  return path == Path::kFloatAffine || path == Path::kFloatTable || path == Path::kFloatPlanes;
}
constexpr bool has_offsets(Path path) { return takes_bytes(path) || path == Path::kFloatAffine; }

// The places of a call's inputs in its scratch; returns the bytes they take. Without scratch only
// the size is valid, and the pointers are meaningless.
inline int64_t place_inputs(Task& task, int8_t** ordered, float** chunk_scales) {
  const bivlm_weight& w = *task.weight;
  const Plan& plan = task.plan;
  const int64_t width = plan.blocks * plan.block_columns, lanes = plan.blocks * V::kLanes;
  const bool bytes = takes_bytes(plan.path),
             lanes_differ = !plan.whole && plan.path != Path::kDense;
  int64_t offset = 0;
  task.plain = take<float>(task.scratch, offset, plan.tokens * plan.plain_stride);
  task.sliced = take<float>(task.scratch, offset,
                            takes_sliced(plan.path) ? plan.terms * plan.tokens * width : 0);
  task.bytes = take<int8_t>(task.scratch, offset, bytes ? plan.tokens * width : 0);
  task.lane_scales = take<float>(task.scratch, offset, bytes ? plan.tokens * lanes : 0);
  task.sums = take<float>(task.scratch, offset,
                          has_offsets(plan.path) ? plan.tokens * padded_groups(w) : 0);
  task.lane_groups = take<int32_t>(task.scratch, offset, lanes_differ ? lanes : 0);
  task.first_groups = take<int64_t>(task.scratch, offset, lanes_differ ? plan.blocks : 0);
  *ordered = take<int8_t>(task.scratch, offset, bytes ? plan.plain_stride : 0);
  *chunk_scales = take<float>(task.scratch, offset, bytes ? plan.plain_stride / kChunk : 0);
  return offset;
}

inline Plan plan(const bivlm_weight& w, int64_t batch, int activations) {
  Plan plan;
  plan.whole = w.groups == 1;
  if (activations != 1 || w.planes || !plan_bytes(w, plan)) plan_floats(w, batch, plan);
  plan.tokens = batch <= 2 ? batch : round_up(batch, kBlockTokens);
  plan.plain_stride = round_up(w.columns, larger(kChunk, plan.block_columns));
  Task measured;
  measured.weight = &w;
  measured.plan = plan;
  int8_t* ordered;
  float* chunk_scales;
  plan.shared_bytes = place_inputs(measured, &ordered, &chunk_scales);
  plan.thread_bytes = kBlockRows * row_layout(w, plan).total;
  return plan;
}

inline void prepare(Task& task) {
  int8_t* ordered;
  float* chunk_scales;
  place_inputs(task, &ordered, &chunk_scales);
  prepare_plain(task);
  const Path path = task.plan.path;
  if (takes_bytes(path)) prepare_bytes(task, ordered, chunk_scales);
  if (path == Path::kFloatAffine) prepare_sums(task);
  if (path == Path::kFloatPlanes) return prepare_terms(task);
  if (takes_sliced(path)) prepare_sliced(task);
  if (!task.plan.whole && path != Path::kDense) prepare_lanes(task);
}

// The difference between tail entry e and the value of its dense code
inline float tail_correction(const bivlm_weight& w, int64_t i, int64_t group, int64_t e, int code) {
  return tail_value(w, i, e, code) - level_at(w, i, group, dense_code(w, code));
}

// The level of a dense code, from the prepared tables of the row
template <Path kPath>
inline float ready_level(const Row& row, int code) {
  if constexpr (kPath == Path::kFloatTable || kPath == Path::kByteTable) return row.tables[code];
  return row.factors[0] * float(code) + row.offsets[0];
}

// The entries of one group's tail, in four independent sums, so that additions need not wait for
// each other. correction(e, code) is the difference that entry e makes.
template <class Entry, int kTokens, class Correction>
inline void add_entries(const bivlm_weight& w, const Correction& correction, int64_t begin,
                        int64_t end, const float* x, int64_t stride, float* out) {
  constexpr int kSums = 4;
  float sums[kTokens][kSums] = {};
  const auto one = [&](int64_t e, int k) BIVLM_INLINE {
    const uint32_t entry = load<Entry>(w.tail_entries, e);
    const float by = correction(e, entry & 3);
    for (int n = 0; n < kTokens; ++n) sums[n][k] += by * x[n * stride + (entry >> 2)];
  };
  int64_t e = begin;
  for (; e + kSums <= end; e += kSums) {
    BIVLM_UNROLL
    for (int k = 0; k < kSums; ++k) one(e + k, k);
  }
  for (; e < end; ++e) one(e, 0);
  for (int n = 0; n < kTokens; ++n) out[n] += (sums[n][0] + sums[n][1]) + (sums[n][2] + sums[n][3]);
}

template <int kTokens, class Correction>
inline void add_group(const bivlm_weight& w, const Correction& correction, int64_t begin,
                      int64_t end, const float* x, int64_t stride, float* out) {
  if (w.tail_wide) return add_entries<uint32_t, kTokens>(w, correction, begin, end, x, stride, out);
  return add_entries<uint16_t, kTokens>(w, correction, begin, end, x, stride, out);
}

template <int kTokens, Path kPath>
inline void add_tail(const Task& task, int64_t i, const Row& row, int64_t token, float* out) {
  const bivlm_weight& w = *task.weight;
  const int64_t begin = tail_begin(w, i), end = tail_end(w, i), stride = task.plan.plain_stride;
  if (begin == end) return;
  const float* x = task.plain + token * stride;
  if (task.plan.whole && w.tail_values) {
    const float level = ready_level<kPath>(row, 0);
    const auto own = [&](int64_t e, uint32_t) BIVLM_INLINE { return own_value(w, e) - level; };
    return add_group<kTokens>(w, own, begin, end, x, stride, out);
  }
  if (task.plan.whole) {
    float corrections[4];
    const float scale = w.scale * float_of_half(load<uint16_t>(w.tail_scale, i));
    for (int code = 0; code < 4; ++code)
      corrections[code] =
          scale * load<float>(w.tail_levels, code) - ready_level<kPath>(row, dense_code(w, code));
    const auto coded = [&](int64_t, uint32_t code) BIVLM_INLINE { return corrections[code]; };
    return add_group<kTokens>(w, coded, begin, end, x, stride, out);
  }
  for (int64_t e = begin; e < end; ++e) {
    const TailEntry entry = tail_entry(w, e);
    const float by = tail_correction(w, i, entry.column / w.group_size, e, entry.code);
    for (int n = 0; n < kTokens; ++n) out[n] += by * x[n * stride + entry.column];
  }
}

template <int kTokens>
inline void add_offsets(const Task& task, const Row& row, int64_t token, float* out) {
  const int64_t stride = padded_groups(*task.weight);
  for (int n = 0; n < kTokens; ++n) {
    const float* sums = task.sums + (token + n) * stride;
    if (task.plan.whole) {
      out[n] += row.offsets[0] * sums[0];
      continue;
    }
    V::Floats sum = V::zero();
    for (int64_t g = 0; g < task.weight->groups; g += V::kLanes)
      sum = V::fma(V::read(row.offsets + g), V::read(sums + g), sum);
    out[n] += V::sum(sum);
  }
}

// Rows i .. i + kRows - 1
template <int kBits, int kRows, int kTokens, Path kPath, bool kWhole>
inline void block_rows(const Task& task, int64_t i, bool first, Row* rows) {
  const bivlm_weight& w = *task.weight;
  for (int r = 0; r < kRows; ++r) {
    if constexpr (kPath == Path::kDense) expand(w, i + r, task.plan, first, rows[r]);
    if constexpr (kPath != Path::kDense) set_row<kPath>(task, i + r, first, rows[r]);
  }
  for (int64_t token = 0; token < task.plan.tokens; token += kTokens) {
    float out[kRows * kTokens];
    if constexpr (kPath == Path::kDense) dense<kRows, kTokens>(task, rows, token, out);
    if constexpr (kPath == Path::kFloatAffine && kBits == 1)
      float_signs<kRows, kTokens, kWhole>(task, rows, token, out);
    if constexpr (kPath == Path::kFloatAffine && kBits > 1)
      float_affine<kBits, kRows, kTokens, kWhole>(task, rows, token, out);
    if constexpr (kPath == Path::kFloatTable)
      float_table<kBits, kRows, kTokens>(task, rows, token, out);
    if constexpr (kPath == Path::kFloatPlanes)
      float_planes<kWhole, kRows, kTokens>(task, rows, token, out);
    if constexpr (kPath == Path::kByteAffine)
      byte_affine<kBits, kRows, kTokens, kWhole, false>(task, rows, token, out);
    if constexpr (kPath == Path::kByteBlocks)
      byte_affine<1, kRows, kTokens, false, true>(task, rows, token, out);
    if constexpr (kPath == Path::kByteTable)
      byte_table<kBits, kRows, kTokens, kWhole>(task, rows, token, out);
    for (int r = 0; r < kRows; ++r) {
      float* sums = out + r * kTokens;
      if constexpr (has_offsets(kPath)) add_offsets<kTokens>(task, rows[r], token, sums);
      if constexpr (kPath != Path::kDense && kPath != Path::kFloatPlanes)
        add_tail<kTokens, kPath>(task, i + r, rows[r], token, sums);
      const float bias = task.bias ? load_as(task.bias, i + r, task.dtype) : 0.0f;
      for (int64_t b = token; b < smaller(task.batch, token + kTokens); ++b)
        store_as(task.y, b * w.rows + i + r, sums[b - token] + bias, task.dtype);
    }
  }
}

// Rows [begin, end) of one path, width and number of tokens at a time
template <int kBits, int kTokens, Path kPath, bool kWhole>
void path_rows(const Task& task, int64_t begin, int64_t end, uint8_t* scratch) {
  Row rows[kBlockRows];
  for (int r = 0; r < kBlockRows; ++r)
    rows[r] = row_in(*task.weight, task.plan, scratch + r * (task.plan.thread_bytes / kBlockRows));
  int64_t i = begin;
  for (; i + kBlockRows <= end; i += kBlockRows)
    block_rows<kBits, kBlockRows, kTokens, kPath, kWhole>(task, i, i == begin, rows);
  for (; i < end; ++i) block_rows<kBits, 1, kTokens, kPath, kWhole>(task, i, i == begin, rows);
}

using Rows = void (*)(const Task&, int64_t, int64_t, uint8_t*);

template <int kBits, Path kPath, bool kWhole>
inline Rows by_tokens(int64_t tokens) {
  if (tokens == 1) return path_rows<kBits, 1, kPath, kWhole>;
  return tokens == 2 ? path_rows<kBits, 2, kPath, kWhole>
                     : path_rows<kBits, kBlockTokens, kPath, kWhole>;
}

template <int kBits, Path kPath>
inline Rows by_groups(const Plan& plan) {
  return plan.whole ? by_tokens<kBits, kPath, true>(plan.tokens)
                    : by_tokens<kBits, kPath, false>(plan.tokens);
}

template <int kBits>
inline Rows by_path(const Plan& plan) {
  if constexpr (kBits >= 2 && kBits <= 4) {
    if (plan.path == Path::kFloatTable)
      return by_tokens<kBits, Path::kFloatTable, true>(plan.tokens);
    if (plan.path == Path::kByteTable) return by_groups<kBits, Path::kByteTable>(plan);
  }
  if constexpr (kBits == 1) {
    if (plan.path == Path::kFloatPlanes)
      return plan.plain ? by_tokens<1, Path::kFloatPlanes, true>(plan.tokens)
                        : by_tokens<1, Path::kFloatPlanes, false>(plan.tokens);
    if (plan.path == Path::kByteBlocks) return by_tokens<1, Path::kByteBlocks, false>(plan.tokens);
  }
  if constexpr (kBits <= 4) {
    if (plan.path == Path::kFloatAffine) return by_groups<kBits, Path::kFloatAffine>(plan);
  }
  if constexpr (kBits <= V::kWidestBytes) {
    if (plan.path == Path::kByteAffine) return by_groups<kBits, Path::kByteAffine>(plan);
  }
  return by_tokens<0, Path::kDense, true>(plan.tokens);
}

inline void rows(const Task& task, int64_t begin, int64_t end, uint8_t* scratch) {
  if (begin >= end) return;
  Rows function = nullptr;
  switch (task.weight->bits) {
    case 1:
      function = by_path<1>(task.plan);
      break;
    case 2:
      function = by_path<2>(task.plan);
      break;
    case 3:
      function = by_path<3>(task.plan);
      break;
    case 4:
      function = by_path<4>(task.plan);
      break;
    case 5:
      function = by_path<5>(task.plan);
      break;
    case 6:
      function = by_path<6>(task.plan);
      break;
    case 7:
      function = by_path<7>(task.plan);
      break;
    default:
      function = by_path<8>(task.plan);
  }
  function(task, begin, end, scratch);
}

constexpr Kernels generic = {plan, prepare, rows, unpack_scratch, unpack};

}  // namespace
}  // namespace bivlm::codes
