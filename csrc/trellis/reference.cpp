// The portable trellis kernels, which are also the definition: every window separately, sums in
// double.
#include "trellis/task.h"
#include "trellis/weight.h"

namespace bivlm::trellis {
namespace {

Needs linear_needs(const Task& task) {
  return {0, task.batch * task.weight->columns * int64_t(sizeof(float)),
          task.batch * kStrip * int64_t(sizeof(double))};
}

void prepare_tables(const Task&) {}

void prepare_token(const Task& task, int64_t token, const float* x) {
  const int64_t columns = task.weight->columns;
  std::memcpy(task.inputs + token * columns * int64_t(sizeof(float)), x,
              size_t(columns) * sizeof(float));
}

// A row of T, run by run: body(run, values)
template <class Body>
void for_values(const Task& task, int64_t row, const Body& body) {
  const bivlm_trellis& w = *task.weight;
  const int64_t strip = row / kStrip, held = held_rows(w, strip);
  const uint8_t* stream = w.codes + strip * task.strip_bytes;
  int8_t values[kRun];
  for (int64_t i = 0; i < task.run_count; ++i) {
    const Run& run = task.runs[i];
    define_values(w, stream, held, row % kStrip, run.before, run.bits, run.columns, values);
    body(run, values);
  }
}

void multiply(const Task& task, int64_t strip, uint8_t* scratch) {
  const bivlm_trellis& w = *task.weight;
  const float* x = reinterpret_cast<const float*>(task.inputs);
  double* sums = reinterpret_cast<double*>(scratch);
  for (int64_t row = strip * kStrip; row < smaller(w.rows, (strip + 1) * kStrip); ++row) {
    for (int64_t b = 0; b < task.batch; ++b) sums[b] = 0;
    for_values(task, row, [&](const Run& run, const int8_t* values) {
      for (int64_t b = 0; b < task.batch; ++b) {
        for (int64_t j = 0; j < run.columns; ++j)
          sums[b] += double(values[j]) * x[b * w.columns + run.column + j];
      }
    });
    const double scale = load<float>(w.row_scale, row),
                 bias = task.bias ? load_as(task.bias, row, task.dtype) : 0.0;
    for (int64_t b = 0; b < task.batch; ++b)
      store_as(task.y, b * w.rows + row, float(scale * sums[b] + bias), task.dtype);
  }
}

Bytes unpack_bytes(const Task&) { return {0, 0}; }

void unpack(const Task& task, int64_t, int64_t begin, int64_t end, void* out, int dtype, uint8_t*) {
  const bivlm_trellis& w = *task.weight;
  std::memset(out, 0, size_t((end - begin) * w.columns * element_bytes(dtype)));
  for (int64_t row = begin; row < end; ++row) {
    const float scale = load<float>(w.row_scale, row);
    for_values(task, row, [&](const Run& run, const int8_t* values) {
      for (int64_t j = 0; j < run.columns; ++j)
        store_as(out, (row - begin) * w.columns + run.column + j, float(values[j]) * scale, dtype);
    });
  }
}

}  // namespace

constexpr Kernels portable = {linear_needs, prepare_tables, prepare_token,
                              multiply,     unpack_bytes,   unpack};

}  // namespace bivlm::trellis
