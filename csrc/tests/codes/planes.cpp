#include "codes/planes.h"

#include <algorithm>
#include <cmath>

namespace test {
namespace {

struct PlanesBuilder {
  Weight& out;
  const Options& o;
  Random random;
  int64_t groups = (o.columns + o.group_size - 1) / o.group_size;
  std::vector<int> salient = {}, signs = {}, parts = {}, seconds = {};

  Buffer& buffer(int64_t bytes) { return out.buffer(bytes, o.offset); }
  bool parted(int64_t j) const { return (salient[size_t(j)] ? o.salient_parts : o.parts) == 2; }

  // Numbers (rows, groups, kinds) as the weight holds them; their values times the weight's scale
  std::vector<float> numbers(bivlm_numbers& into, int dtype, int64_t kinds) {
    const int64_t count = o.rows * groups * kinds;
    Buffer& stored = buffer(count * (dtype == 1 ? 4 : dtype == 2 ? 2 : 1));
    Buffer& units = buffer(2 * o.rows * kinds);
    std::vector<float> values;
    for (int64_t i = 0; i < o.rows * kinds; ++i)
      units.put(size_t(i), half_of(0.004 + 0.01 * random.unit()));
    for (int64_t i = 0; i < count; ++i) {
      const size_t at = size_t(i), row = size_t(i / (groups * kinds) * kinds + i % kinds);
      const float drawn = random.normal(), unit = of_half(units.get<uint16_t>(row));
      float value = drawn;
      if (dtype == 1) stored.put(at, drawn);
      if (dtype == 2) stored.put(at, half_of(drawn)), value = of_half(half_of(drawn));
      if (dtype == 3) {
        stored.put(at, uint8_t(random.below(256)));
        value = float(stored.get<uint8_t>(at)) * unit;
      }
      if (dtype == 4) {
        stored.put(at, int8_t(random.below(255) - 127));
        value = float(stored.get<int8_t>(at)) * unit;
      }
      values.push_back(value * out.w.scale);
    }
    into = {stored.data(), dtype, dtype > 2 ? pointer<uint16_t>(units) : nullptr};
    return values;
  }

  // One bit for each weight, of the columns that a plane has
  template <class Has>
  const uint8_t* plane(const std::vector<int>& bits, const Has& has, int64_t& row_bytes) {
    int64_t count = 0;
    for (int64_t j = 0; j < o.columns; ++j) count += has(j);
    row_bytes = (count + 7) / 8;
    Buffer& stored = buffer(o.rows * row_bytes);
    for (int64_t i = 0; i < o.rows; ++i) {
      int64_t place = 0;
      for (int64_t j = 0; j < o.columns; ++j) {
        if (has(j))
          put_field(stored.data() + i * row_bytes, place++, 1, bits[size_t(i * o.columns + j)]);
      }
    }
    return count ? stored.data() : nullptr;
  }

  // Column scales (4, width), 1 where there are none
  std::vector<float> column_scales(int64_t width) {
    Buffer& stored = buffer(2 * 4 * width);
    std::vector<float> values;
    for (int64_t k = 0; k < 4 * width; ++k) {
      const int64_t j = k % width;
      const bool used = o.column_scale && j < o.columns && (k < 2 * width || salient[size_t(j)]);
      stored.put(size_t(k), half_of(used ? 0.5 + random.unit() : 1.0));
      values.push_back(of_half(stored.get<uint16_t>(size_t(k))));
    }
    if (o.column_scale) out.planes.column_scales = pointer<uint16_t>(stored);
    return values;
  }

  // Entries over some weights of each row, their codes' lowest bits in place of signs
  void tail() {
    std::vector<uint8_t> steps;
    std::vector<int64_t> starts = {0}, step_starts = {0};
    std::vector<int> codes;
    Buffer& scales = buffer(2 * o.rows);
    Buffer& zeros = buffer(2 * o.rows);
    for (int64_t i = 0; i < o.rows; ++i) {
      scales.put(size_t(i), half_of(0.01 * random.normal()));
      zeros.put(size_t(i), half_of(128 + 20 * random.normal()));
      const float scale = of_half(scales.get<uint16_t>(size_t(i))) * out.w.scale,
                  zero = of_half(zeros.get<uint16_t>(size_t(i)));
      int64_t before = -1;
      for (int64_t j = 0; j < o.columns; ++j) {
        if (random.unit() >= o.tail) continue;
        const int code = random.below(256);
        const size_t at = size_t(i * o.columns + j);
        codes.push_back(code), signs[at] = code & 1;
        out.values[at] = scale * (float(code) - zero);
        for (; j - before > 255; before += 255) steps.push_back(0);
        steps.push_back(uint8_t(j - before)), before = j;
      }
      starts.push_back(int64_t(codes.size())), step_starts.push_back(int64_t(steps.size()));
    }
    Buffer& bits = buffer(int64_t(7 * codes.size() + 7) / 8);
    for (size_t e = 0; e < codes.size(); ++e) put_field(bits.data(), int64_t(e), 7, codes[e] >> 1);
    Buffer& stored = buffer(int64_t(steps.size()));
    std::copy(steps.begin(), steps.end(), stored.data());
    const auto listed = [&](const std::vector<int64_t>& all) {
      Buffer& list = buffer(8 * int64_t(all.size()));
      for (size_t i = 0; i < all.size(); ++i) list.put(i, all[i]);
      return pointer<int64_t>(list);
    };
    out.planes.tail_start = listed(starts), out.planes.tail_step_start = listed(step_starts);
    out.planes.tail_steps = stored.data(), out.planes.tail_bits = bits.data();
    out.planes.tail_scale = pointer<uint16_t>(scales),
    out.planes.tail_zero = pointer<uint16_t>(zeros);
  }

  void build() {
    bivlm_weight& w = out.w;
    w.kind = BIVLM_KIND_PLANE, w.bits = 1, w.rows = o.rows, w.columns = o.columns;
    w.group_size = o.group_size, w.groups = groups, w.alphabet = 2, w.scale = 0x1p-2f;
    out.planes.parts = o.parts, out.planes.salient_parts = o.salient_parts;
    const int64_t scale_kinds = o.parts + 2 * o.salient_parts,
                  mean_kinds = o.parts + o.salient_parts, width = (o.columns + 63) / 64 * 64;
    for (int64_t j = 0; j < o.columns; ++j)
      salient.push_back(o.salient_parts && random.below(3) == 0);
    for (int64_t at = 0; at < o.rows * o.columns; ++at) {
      signs.push_back(random.below(2)), parts.push_back(random.below(2));
      seconds.push_back(random.below(2));
    }
    const std::vector<float> scales = numbers(w.scales, o.numbers, scale_kinds);
    std::vector<float> means;
    if (o.means) means = numbers(out.planes.means, o.means, mean_kinds);
    const std::vector<float> of_columns = column_scales(width);
    for (int64_t i = 0; i < o.rows; ++i) {
      for (int64_t j = 0; j < o.columns; ++j) {
        const size_t at = size_t(i * o.columns + j), column = size_t(j);
        const int64_t part = parted(j) ? parts[at] : 0, group = i * groups + j / o.group_size;
        const int64_t kind = salient[column] ? o.parts + 2 * part : part;
        const float* found = scales.data() + group * scale_kinds + kind;
        const float first = found[0] * of_columns[size_t(part * width + j)];
        float value = signs[at] ? first : -first, magnitude = std::fabs(first);
        if (o.means) {
          const float mean =
              means[size_t(group * mean_kinds + (salient[column] ? o.parts + part : part))];
          value = mean + value, magnitude += std::fabs(mean);
        }
        if (salient[column]) {
          const float second = found[1] * of_columns[size_t((2 + part) * width + j)];
          value += seconds[at] ? second : -second, magnitude += std::fabs(second);
        }
        out.values.push_back(value), out.dense.push_back(magnitude);
      }
    }
    if (o.tail > 0) tail();
    w.codes = plane(signs, [](int64_t) { return true; }, w.row_bytes);
    out.planes.partition =
        plane(parts, [&](int64_t j) { return parted(j); }, out.planes.partition_bytes);
    out.planes.second_signs =
        plane(seconds, [&](int64_t j) { return salient[size_t(j)]; }, out.planes.second_bytes);
    if (o.salient_parts) {
      Buffer& mask = buffer((o.columns + 7) / 8);
      for (int64_t j = 0; j < o.columns; ++j) put_field(mask.data(), j, 1, salient[size_t(j)]);
      out.planes.salient = mask.data();
    }
    w.planes = &out.planes;
  }
};

}  // namespace

void build_planes(Weight& out, const Options& o, uint32_t seed) {
  PlanesBuilder builder{out, o, Random(seed)};
  builder.build();
  char text[256];
  std::snprintf(
      text, sizeof text,
      "planes, %lld x %lld, groups of %lld, numbers %d, parts %d, salient parts %d, means "
      "%d, tail %g%s, offset %d",
      (long long)o.rows, (long long)o.columns, (long long)o.group_size, o.numbers, o.parts,
      o.salient_parts, o.means, o.tail, o.column_scale ? ", column scales" : "", o.offset);
  out.words = text;
}

}  // namespace test
