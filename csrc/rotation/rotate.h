// The rotation of the inputs in vectors: R x = (the Hartley transforms over the prime factors of
// the width) (signs x).
//
// The factors of two together are a fast Walsh-Hadamard transform. For an odd prime m, with e_b =
// x_b + x_(m-b), o_b = x_b - x_(m-b), h = (m - 1) / 2:
//
//     y_0 = x_0 + sum e_b,     y_a, y_(m-a) = (x_0 + sum_b e_b cos(2 pi a b / m)) +- (sum_b o_b
//     sin(2 pi a b / m)),     a, b = 1 ... h
//
// The axes are reversed while the inputs are read, (2, ..., 2, p, ..., q) to (q, ..., p, power of
// two), so every transform runs along vectors of neighbouring columns. The factor 1 / sqrt(width)
// is applied at the end.
//
// A file of an instruction set includes its vector.h and mix.h, then this one (isa/generic.h).
#pragma once

#include <cmath>

#include "isa/dtypes.h"
#include "loops.h"
#include "rotation/primes.h"
#include "rotation/task.h"

namespace bivlm::rotation {
namespace {

constexpr int64_t kSums = 4;  // a's whose sums are made at a time

struct OddPrime {
  int64_t prime, half;
  int64_t table;  // where its coefficients begin: (ceil(half / kSums), half, 2, kSums), cosines and
                  // sines; then those of all multiples of 1 / prime
};

struct Plan {
  int64_t columns, power = 1, odd = 1, table_floats = 0, largest = 1;
  int count = 0;
  OddPrime primes[40];  // ascending

  explicit Plan(int64_t width) : columns(width) {
    const Primes all(width);
    for (int i = 0; i < all.count; ++i) {
      const int64_t prime = all.factors[i], half = (prime - 1) / 2;
      if (prime == 2) {
        power *= 2;
        continue;
      }
      const bool again = count && primes[count - 1].prime == prime;
      primes[count] = {prime, half, again ? primes[count - 1].table : table_floats};
      if (!again) table_floats += ceil_div(half, kSums) * half * 2 * kSums + 2 * prime;
      ++count;
      odd *= prime;
      largest = prime;
    }
  }
  int64_t table_bytes() const { return round_up(table_floats * int64_t(sizeof(float)), 64); }
};

inline Bytes bytes(int64_t columns) {
  const Plan plan(columns);
  const int64_t pairs = plan.largest * Vector::kLanes;
  return {plan.table_bytes() + plan.odd * int64_t(sizeof(int32_t)),
          (round_up(columns, 16) + pairs) * int64_t(sizeof(float))};
}

// cos and sin of 2 pi k / prime for all k < prime, computed in double: (prime, 2)
inline void set_wave(int64_t prime, float* wave) {
  for (int64_t k = 0; k <= prime / 2; ++k) {
    const double angle = 6.283185307179586476925286766559 * double(k) / double(prime);
    wave[2 * k] = float(std::cos(angle)), wave[2 * k + 1] = float(std::sin(angle));
  }
  for (int64_t k = prime / 2 + 1; k < prime; ++k)
    wave[2 * k] = wave[2 * (prime - k)], wave[2 * k + 1] = -wave[2 * (prime - k) + 1];
}

inline void set_coefficients(const OddPrime& p, float* out) {
  const float* wave = out + ceil_div(p.half, kSums) * p.half * 2 * kSums;
  for (int64_t first = 1; first <= p.half; first += kSums) {
    int64_t k[kSums] = {};
    for (int64_t b = 1; b <= p.half; ++b, out += 2 * kSums) {
      BIVLM_UNROLL
      for (int64_t i = 0; i < kSums; ++i) {
        k[i] += smaller(first + i, p.half);  // beyond the last: unused numbers
        k[i] -= k[i] >= p.prime ? p.prime : 0;
        out[i] = wave[2 * k[i]], out[kSums + i] = wave[2 * k[i] + 1];
      }
    }
  }
}

// The coefficients of every different prime, and for every index of the odd axes the one with its
// axes turned round
inline void prepare(const Task& task) {
  const Plan plan(task.columns);
  float* tables = reinterpret_cast<float*>(task.shared);
  for (int i = 0; i < plan.count; ++i) {
    const OddPrime& p = plan.primes[i];
    if (i && plan.primes[i - 1].table == p.table) continue;
    set_wave(p.prime, tables + p.table + ceil_div(p.half, kSums) * p.half * 2 * kSums);
    set_coefficients(p, tables + p.table);
  }
  int32_t* turned = reinterpret_cast<int32_t*>(task.shared + plan.table_bytes());
  for (int64_t o = 0; o < plan.odd; ++o) {
    int64_t rest = o, value = 0;
    for (int i = plan.count - 1; i >= 0; --i)
      value = value * plan.primes[i].prime + rest % plan.primes[i].prime,
      rest /= plan.primes[i].prime;
    turned[o] = int32_t(value);
  }
}

// Two stages of the Walsh-Hadamard transform of `size` numbers: pairs that are h and 2h apart, and
// before them, the first time, those in a vector
template <bool kFirst>
inline void two_stages(float* x, int64_t size, int64_t h) {
  for (int64_t block = 0; block < size; block += 4 * h) {
    for (int64_t j = block; j < block + h; j += Vector::kLanes) {
      Vector::Floats v[4];
      BIVLM_UNROLL
      for (int i = 0; i < 4; ++i)
        v[i] = kFirst ? mix_lanes(Vector::read(x + j + i * h)) : Vector::read(x + j + i * h);
      const Vector::Floats a = Vector::add(v[0], v[1]), b = Vector::sub(v[0], v[1]),
                           c = Vector::add(v[2], v[3]), d = Vector::sub(v[2], v[3]);
      Vector::write(x + j, Vector::add(a, c));
      Vector::write(x + j + h, Vector::add(b, d));
      Vector::write(x + j + 2 * h, Vector::sub(a, c));
      Vector::write(x + j + 3 * h, Vector::sub(b, d));
    }
  }
}

inline void one_stage(float* x, int64_t size, int64_t h) {
  for (int64_t block = 0; block < size; block += 2 * h) {
    for (int64_t j = block; j < block + h; ++j) {
      const float a = x[j], b = x[j + h];
      x[j] = a + b, x[j + h] = a - b;
    }
  }
}

inline void hadamard(float* x, int64_t size) {
  int64_t h = 1;
  if (size >= 4 * Vector::kLanes) {
    two_stages<true>(x, size, Vector::kLanes);
    for (h = 4 * Vector::kLanes; 4 * h <= size; h *= 4) two_stages<false>(x, size, h);
  }
  for (; 2 * h <= size; h *= 2) one_stage(x, size, h);
}

inline Vector::Floats read_some(const float* p, int64_t count) {
  if (count >= Vector::kLanes) return Vector::read(p);
  float all[Vector::kLanes] = {};
  std::memcpy(all, p, size_t(count) * sizeof(float));
  return Vector::read(all);
}

inline void write_some(float* p, Vector::Floats v, int64_t count) {
  if (count >= Vector::kLanes) return Vector::write(p, v);
  float all[Vector::kLanes];
  Vector::write(all, v);
  std::memcpy(p, all, size_t(count) * sizeof(float));
}

// The transform over an odd prime of up to kLanes neighbouring columns; their numbers for index b
// lie at x + b * step. `pairs`: room for e and o.
inline void hartley(const OddPrime& p, const float* table, float* x, int64_t step, int64_t count,
                    float* pairs) {
  const Vector::Floats zeroth = read_some(x, count);
  Vector::Floats sum = zeroth;
  for (int64_t b = 1; b <= p.half; ++b) {
    const Vector::Floats near = read_some(x + b * step, count),
                         far = read_some(x + (p.prime - b) * step, count);
    const Vector::Floats even = Vector::add(near, far);
    sum = Vector::add(sum, even);
    Vector::write(pairs + (2 * b - 2) * Vector::kLanes, even);
    Vector::write(pairs + (2 * b - 1) * Vector::kLanes, Vector::sub(near, far));
  }
  write_some(x, sum, count);
  for (int64_t first = 1; first <= p.half; first += kSums) {
    Vector::Floats cosines[kSums], sines[kSums];
    BIVLM_UNROLL
    for (int i = 0; i < kSums; ++i) cosines[i] = zeroth, sines[i] = Vector::zero();
    for (int64_t b = 0; b < p.half; ++b, table += 2 * kSums) {
      const Vector::Floats even = Vector::read(pairs + 2 * b * Vector::kLanes),
                           odd = Vector::read(pairs + (2 * b + 1) * Vector::kLanes);
      BIVLM_UNROLL
      for (int i = 0; i < kSums; ++i) {
        cosines[i] = Vector::fma(Vector::set(table[i]), even, cosines[i]);
        sines[i] = Vector::fma(Vector::set(table[kSums + i]), odd, sines[i]);
      }
    }
    const int64_t sums = smaller(kSums, p.half + 1 - first);
    for (int64_t i = 0; i < sums; ++i) {
      write_some(x + (first + i) * step, Vector::add(cosines[i], sines[i]), count);
      write_some(x + (p.prime - first - i) * step, Vector::sub(cosines[i], sines[i]), count);
    }
  }
}

inline void read_signed(const Task& task, int64_t first, float* out) {
  const float* signs = task.signs;
  int64_t j = 0;
  for (; j + Vector::kLanes <= task.columns; j += Vector::kLanes) {
    const Vector::Floats x = read_as(task.x, first + j, task.dtype);
    Vector::write(out + j, signs ? Vector::mul(x, Vector::read(signs + j)) : x);
  }
  for (; j < task.columns; ++j)
    store(out, j, load_as(task.x, first + j, task.dtype) * (signs ? load<float>(signs, j) : 1.0f));
}

// x (power, odd) to (odd reversed, power), or back; in blocks, since numbers that are a power of
// two of columns apart share few places of the cache.
template <bool kBack>
inline void turn(const Plan& plan, const int32_t* turned, const float* x, float* out) {
  constexpr int64_t kBlock = 16;
  for (int64_t first = 0; first < plan.power; first += kBlock) {
    const int64_t end = smaller(plan.power, first + kBlock);
    for (int64_t o = 0; o < plan.odd; ++o) {
      const int64_t row = turned[o] * plan.power;
      for (int64_t k = first; k < end; ++k) {
        if (kBack) {
          store(out, k * plan.odd + o, x[row + k]);
        } else {
          out[row + k] = load<float>(x, k * plan.odd + o);
        }
      }
    }
  }
}

inline void scale_by(float scale, const float* x, int64_t count, float* out) {
  int64_t j = 0;
  for (; j + Vector::kLanes <= count; j += Vector::kLanes)
    Vector::write(out + j, Vector::mul(Vector::read(x + j), Vector::set(scale)));
  for (; j < count; ++j) store(out, j, load<float>(x, j) * scale);
}

inline void rotate(const Task& task, int64_t token, float* out, uint8_t* scratch) {
  const Plan plan(task.columns);
  const float* tables = reinterpret_cast<const float*>(task.shared);
  const int32_t* turned = reinterpret_cast<const int32_t*>(task.shared + plan.table_bytes());
  float *x = reinterpret_cast<float*>(scratch), *pairs = x + round_up(plan.columns, 16);
  read_signed(task, token * task.x_stride, plan.odd == 1 ? x : out);
  if (plan.odd > 1) turn<false>(plan, turned, out, x);
  for (int64_t o = 0; o < plan.odd; ++o) hadamard(x + o * plan.power, plan.power);
  int64_t after = plan.power;
  for (int i = 0; i < plan.count; ++i) {
    const OddPrime& p = plan.primes[i];
    for (int64_t block = 0; block < plan.columns; block += after * p.prime) {
      for (int64_t j = 0; j < after; j += Vector::kLanes)
        hartley(p, tables + p.table, x + block + j, after, after - j, pairs);
    }
    after *= p.prime;
  }
  if (plan.odd > 1) turn<true>(plan, turned, x, out);
  scale_by(float(1 / std::sqrt(double(plan.columns))), plan.odd > 1 ? out : x, plan.columns, out);
}

constexpr Kernels generic = {bytes, prepare, rotate};

}  // namespace
}  // namespace bivlm::rotation
