#include "trellis/weights.h"

#include <algorithm>

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
    const int lead = o.cut ? random.below(1 << 16) : 0;
    stream.put(lead, 16);
    uint32_t state = uint32_t(lead) >> (16 - o.window);
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
  w.signs = o.rotated ? keep(buffers, signs, o.offset) : nullptr, w.blocks = o.blocks;
  char text[200];
  std::snprintf(text, sizeof text,
                "trellis (%lld, %lld), window %d, bits %d ..., one table %d, rotated %d, blocks "
                "%d, cut %d, offset %d",
                (long long)o.rows, (long long)o.columns, o.window, o.bits[0], o.one_table,
                o.rotated, int(o.blocks), o.cut, o.offset);
  words = text;
}

}  // namespace test
