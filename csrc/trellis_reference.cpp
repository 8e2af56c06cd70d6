// The portable trellis kernels, which are also the definition: every window by itself, every
// Hartley transform as a sum, all in double.
#include <cmath>

#include "primes.h"
#include "trellis_set.h"
#include "trellis_weight.h"

namespace bivlm {
namespace {

constexpr double kTurn = 6.283185307179586476925286766559;

Bytes rotation_bytes(int64_t columns) {
  return {columns * int64_t(sizeof(double)), 2 * columns * int64_t(sizeof(double))};
}

// For every different prime p, one after the other: cas(2 pi k / p) for k < p. Their sum is at most
// `columns`, but for a width of one.
void prepare_rotation(const RotationTask& task) {
  double* table = reinterpret_cast<double*>(task.shared);
  const Primes primes(task.columns);
  for (int i = 0; i < primes.count; ++i) {
    const int64_t prime = primes.factors[i];
    if (i && primes.factors[i - 1] == prime) continue;
    for (int64_t k = 0; k < prime; ++k)
      *table++ =
          std::cos(kTurn * double(k) / double(prime)) + std::sin(kTurn * double(k) / double(prime));
  }
}

// The transform over one prime of x, seen as (before, prime, after)
void transform_axis(const double* x, int64_t columns, int64_t prime, int64_t after,
                    const double* cas, double* out) {
  for (int64_t j = 0; j < columns; ++j) {
    const int64_t a = j / after % prime, first = j - a * after;
    double sum = 0;
    for (int64_t b = 0; b < prime; ++b) sum += x[first + b * after] * cas[a * b % prime];
    out[j] = sum;
  }
}

void rotate(const RotationTask& task, int64_t token, float* out, uint8_t* scratch) {
  const int64_t columns = task.columns;
  double *x = reinterpret_cast<double*>(scratch), *next = x + columns;
  for (int64_t j = 0; j < columns; ++j) {
    x[j] = double(load_as(task.x, token * task.x_stride + j, task.dtype)) *
           (task.signs ? load<float>(task.signs, j) : 1.0f);
  }
  const Primes primes(columns);
  const double* cas = reinterpret_cast<const double*>(task.shared);
  int64_t after = columns;
  for (int i = 0; i < primes.count; ++i) {
    if (i && primes.factors[i - 1] != primes.factors[i]) cas += primes.factors[i - 1];
    after /= primes.factors[i];
    transform_axis(x, columns, primes.factors[i], after, cas, next);
    double* const other = x;
    x = next, next = other;
  }
  for (int64_t j = 0; j < columns; ++j) store(out, j, float(x[j] / std::sqrt(double(columns))));
}

Bytes linear_bytes(const TrellisTask& task) {
  return {task.batch * task.weight->columns * int64_t(sizeof(float)),
          task.batch * kStrip * int64_t(sizeof(double))};
}

void prepare_weight(const TrellisTask&) {}

void prepare_token(const TrellisTask& task, int64_t token, const float* x) {
  const int64_t columns = task.weight->columns;
  std::memcpy(task.shared + token * columns * int64_t(sizeof(float)), x,
              size_t(columns) * sizeof(float));
}

// A row of T, run by run: body(run, values)
template <class Body>
void for_values(const TrellisTask& task, int64_t row, const Body& body) {
  const bivlm_trellis& w = *task.weight;
  const int64_t strip = row / kStrip, held = held_rows(w, strip);
  const uint8_t* stream = w.codes + strip * task.strip_bytes;
  int8_t values[kRun];
  for (int64_t i = 0; i < task.run_count; ++i) {
    const TrellisRun& run = task.runs[i];
    define_values(w, stream, held, row % kStrip, run.before, run.bits, run.columns, values);
    body(run, values);
  }
}

void multiply(const TrellisTask& task, int64_t strip, uint8_t* scratch) {
  const bivlm_trellis& w = *task.weight;
  const float* x = reinterpret_cast<const float*>(task.shared);
  double* sums = reinterpret_cast<double*>(scratch);
  for (int64_t row = strip * kStrip; row < smaller(w.rows, (strip + 1) * kStrip); ++row) {
    for (int64_t b = 0; b < task.batch; ++b) sums[b] = 0;
    for_values(task, row, [&](const TrellisRun& run, const int8_t* values) {
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

Bytes unpack_bytes(const TrellisTask&) { return {0, 0}; }

void unpack(const TrellisTask& task, int64_t, int64_t begin, int64_t end, void* out, int dtype,
            uint8_t*) {
  const bivlm_trellis& w = *task.weight;
  std::memset(out, 0, size_t((end - begin) * w.columns * element_bytes(dtype)));
  for (int64_t row = begin; row < end; ++row) {
    const float scale = load<float>(w.row_scale, row);
    for_values(task, row, [&](const TrellisRun& run, const int8_t* values) {
      for (int64_t j = 0; j < run.columns; ++j)
        store_as(out, (row - begin) * w.columns + run.column + j, float(values[j]) * scale, dtype);
    });
  }
}

}  // namespace

const TrellisSet& portable_trellis() {
  static const TrellisSet set = {rotation_bytes, prepare_rotation, rotate,
                                 linear_bytes,   prepare_weight,   prepare_token,
                                 multiply,       unpack_bytes,     unpack};
  return set;
}

}  // namespace bivlm
