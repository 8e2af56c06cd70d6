// The portable rotation, which is also the definition: every Hartley transform as a sum, in double.
#include <cmath>

#include "numbers.h"
#include "rotation/primes.h"
#include "rotation/task.h"

namespace bivlm::rotation {
namespace {

constexpr double kTurn = 6.283185307179586476925286766559;

Bytes bytes(int64_t columns) {
  return {columns * int64_t(sizeof(double)), 2 * columns * int64_t(sizeof(double))};
}

// For every different prime p, one after the other: cas(2 pi k / p) for k < p. Their sum is at most
// `columns`, but for a width of one.
void prepare(const Task& task) {
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

void rotate(const Task& task, int64_t token, float* out, uint8_t* scratch) {
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

}  // namespace

constexpr Kernels portable = {bytes, prepare, rotate};

}  // namespace bivlm::rotation
