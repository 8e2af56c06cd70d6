// The portable kernels, which are also the definition: every weight separately in float32, as in
// docs/format.md, and sums in double.
#include "codes/task.h"
#include "codes/weight.h"

namespace bivlm::codes {
namespace {

constexpr int64_t kTokenStride = 16;  // plain inputs are padded to this many columns

Plan plan(const bivlm_weight& w, int64_t batch, int) {
  Plan plan;
  plan.tokens = batch;
  plan.plain_stride = round_up(w.columns, kTokenStride);
  plan.shared_bytes = batch * plan.plain_stride * int64_t(sizeof(float));
  plan.thread_bytes = w.columns * int64_t(sizeof(float));
  return plan;
}

void prepare(Task& task) {
  const bivlm_weight& w = *task.weight;
  task.plain = reinterpret_cast<float*>(task.scratch);
  for (int64_t b = 0; b < task.batch; ++b) {
    for (int64_t j = 0; j < w.columns; ++j) {
      const float x = load_as(task.x, b * task.x_stride + j, task.dtype);
      task.plain[b * task.plan.plain_stride + j] =
          w.column_scale ? x * float_of_half(load<uint16_t>(w.column_scale, j)) : x;
    }
  }
}

// A row without the column scales.
void expand(const bivlm_weight& w, int64_t row, float* out) {
  if (w.planes) return planes_row(w, row, out);
  for (int64_t j = 0; j < w.columns; ++j)
    out[j] = value_of(w, row, j / w.group_size, code_at(w, row, j));
  for (int64_t e = tail_begin(w, row); e < tail_end(w, row); ++e) {
    const TailEntry entry = tail_entry(w, e);
    out[entry.column] = tail_value(w, row, e, entry.code);
  }
}

void rows(const Task& task, int64_t begin, int64_t end, uint8_t* scratch) {
  const bivlm_weight& w = *task.weight;
  float* row = reinterpret_cast<float*>(scratch);
  for (int64_t i = begin; i < end; ++i) {
    expand(w, i, row);
    for (int64_t b = 0; b < task.batch; ++b) {
      const float* x = task.plain + b * task.plan.plain_stride;
      double sum = task.bias ? load_as(task.bias, i, task.dtype) : 0.0;
      for (int64_t j = 0; j < w.columns; ++j) sum += double(row[j]) * x[j];
      store_as(task.y, b * w.rows + i, float(sum), task.dtype);
    }
  }
}

int64_t unpack_scratch(const bivlm_weight& w) { return w.columns * int64_t(sizeof(float)); }

void unpack(const bivlm_weight& w, int64_t begin, int64_t end, void* out, int dtype,
            uint8_t* scratch) {
  float* values = reinterpret_cast<float*>(scratch);
  for (int64_t i = begin; i < end; ++i) {
    expand(w, i, values);
    for (int64_t j = 0; j < w.columns; ++j) {
      const float value =
          w.column_scale ? values[j] * float_of_half(load<uint16_t>(w.column_scale, j)) : values[j];
      store_as(out, (i - begin) * w.columns + j, value, dtype);
    }
  }
}

}  // namespace

constexpr Kernels portable = {plan, prepare, rows, unpack_scratch, unpack};

}  // namespace bivlm::codes
