#include "trellis_weights.h"

#include <cmath>

namespace test {
namespace {

struct BitWriter {
  std::vector<uint8_t> bytes;
  int64_t count = 0;
  void zeros(int64_t bits) { count += bits, bytes.resize(size_t((count + 7) / 8)); }
  void put(int value, int bits) {
    for (int i = 0; i < bits; ++i) {
      const int64_t at = count;
      zeros(1);
      bytes[size_t(at / 8)] = uint8_t(bytes[size_t(at / 8)] | (value >> i & 1) << at % 8);
    }
  }
};

template <class T>
const T* keep(std::vector<Buffer>& buffers, const std::vector<T>& values, int offset) {
  buffers.emplace_back(values.size() * sizeof(T), offset);
  for (size_t i = 0; i < values.size(); ++i) buffers.back().put(i, values[i]);
  return reinterpret_cast<const T*>(buffers.back().data());
}

}  // namespace

TrellisWeight::TrellisWeight(const TrellisOptions& o, uint32_t seed) {
  Random random(seed);
  const int64_t entries = int64_t(1) << o.window, runs = (o.columns + 15) / 16;
  std::vector<int8_t> table(size_t(o.one_table ? entries : 4 * entries));
  for (int8_t& value : table) value = int8_t(random.below(256) - 128);
  std::vector<uint8_t> bits;
  for (int64_t run = 0; run < runs; ++run)
    bits.push_back(uint8_t(o.bits[size_t(run) % o.bits.size()]));
  for (int64_t i = 0; i < o.rows; ++i)
    scales.push_back((random.unit() + 0.5f) * (random.below(2) ? 1 : -1));
  for (int64_t j = 0; j < o.columns && o.rotated; ++j)
    signs.push_back(random.below(2) ? 1.0f : -1.0f);

  values.resize(size_t(o.rows * o.columns));
  std::vector<uint8_t> codes;
  for (int64_t first = 0; first < o.rows; first += 64) {
    const int64_t held = std::min<int64_t>(64, (o.rows - first + 15) / 16 * 16);
    BitWriter stream;
    stream.zeros(16);
    uint32_t state = 0;
    for (int64_t j = 0; j < o.columns; ++j) {
      const int k = bits[size_t(j / 16)];
      for (int64_t i = first; i < first + held && k; ++i) {
        const int symbol = random.below(1 << k);
        stream.put(symbol, k);
        state = state >> k | uint32_t(symbol) << (o.window - k);
        if (i < o.rows)
          values[size_t(i * o.columns + j)] =
              table[size_t((o.one_table ? 0 : (k - 1) * entries) + state)];
      }
    }
    codes.insert(codes.end(), stream.bytes.begin(), stream.bytes.end());
  }
  w.rows = o.rows, w.columns = o.columns, w.window = o.window;
  w.codes = keep(buffers, codes, o.offset), w.code_bytes = int64_t(codes.size());
  w.bits = keep(buffers, bits, o.offset);
  w.table = keep(buffers, table, o.offset), w.table_stride = o.one_table ? 0 : entries;
  w.row_scale = keep(buffers, scales, o.offset);
  w.signs = o.rotated ? keep(buffers, signs, o.offset) : nullptr;
  char text[160];
  std::snprintf(text, sizeof text,
                "trellis (%lld, %lld), window %d, bits %d ..., one table %d, rotated %d, offset %d",
                (long long)o.rows, (long long)o.columns, o.window, o.bits[0], o.one_table,
                o.rotated, o.offset);
  words = text;
}

std::vector<double> rotated(const std::vector<float>& x, const std::vector<float>& signs) {
  const int64_t n = int64_t(x.size());
  std::vector<int64_t> primes;
  for (int64_t rest = n, p = 2; rest > 1; ++p) {
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
    for (int64_t j = 0; j < n; ++j) {
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
