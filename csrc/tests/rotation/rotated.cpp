#include "rotation/rotated.h"

#include <cmath>

namespace test {

std::vector<double> rotated(const std::vector<float>& x, const std::vector<float>& signs,
                            int64_t blocks) {
  const int64_t n = int64_t(x.size()), width = n / blocks;
  std::vector<int64_t> primes;
  for (int64_t rest = width, p = 2; rest > 1; ++p) {
    for (; rest % p == 0; rest /= p) primes.push_back(p);
  }
  std::vector<std::vector<double>> cas;  // of every prime, for every multiple of its angle
  for (const int64_t p : primes) {
    cas.emplace_back();
    for (int64_t k = 0; k < p; ++k) {
      const double angle = 2 * std::acos(-1.0) * double(k) / double(p);
      cas.back().push_back((std::cos(angle) + std::sin(angle)) / std::sqrt(double(p)));
    }
  }
  std::vector<double> y(size_t(n), 0.0);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i / width * width; j < (i / width + 1) * width; ++j) {
      double entry = signs.empty() ? 1.0 : signs[size_t(j)];
      int64_t a = i, b = j;
      for (size_t k = primes.size(); k-- > 0; a /= primes[k], b /= primes[k])
        entry *= cas[k][size_t((a % primes[k]) * (b % primes[k]) % primes[k])];
      y[size_t(i)] += entry * x[size_t(j)];
    }
  }
  return y;
}

}  // namespace test
