#include "codes/weights.h"

#include "codes/planes.h"

#include <algorithm>
#include <cmath>

namespace test {
namespace {

struct Builder {
  Weight& out;
  const Options& o;
  Random random;
  int64_t groups, row_bytes;
  std::vector<int> codes;

  Buffer& buffer(int64_t bytes) { return out.buffer(bytes, o.offset); }

  // Numbers (rows, groups) as the weight holds them; their values in `values`
  std::vector<float> numbers() {
    std::vector<float> values(size_t(o.rows * groups), 1.0f);
    out.w.scales.dtype = o.numbers;
    if (o.numbers == 0) return values;
    const bool eight = o.numbers > 2;
    Buffer& stored = buffer(o.rows * groups * (o.numbers == 1 ? 4 : o.numbers == 2 ? 2 : 1));
    Buffer* unit = eight ? &buffer(2 * o.rows) : nullptr;
    for (int64_t i = 0; i < o.rows; ++i) {
      const uint16_t one = half_of(0.004 + 0.01 * random.unit());
      if (eight) unit->put(size_t(i), one);
      for (int64_t g = 0; g < groups; ++g) {
        const size_t at = size_t(i * groups + g);
        const float drawn = (o.kind == BIVLM_KIND_PLANE && random.below(4) == 0 ? -1.0f : 1.0f) *
                            (0.2f + random.unit());
        if (o.numbers == 1) stored.put(at, values[at] = drawn);
        if (o.numbers == 2) stored.put(at, half_of(drawn)), values[at] = of_half(half_of(drawn));
        if (o.numbers == 3)
          stored.put(at, uint8_t(20 + random.below(236))),
              values[at] = float(stored.get<uint8_t>(at)) * of_half(one);
        if (o.numbers == 4)
          stored.put(at, int8_t(random.below(255) - 127)),
              values[at] = float(stored.get<int8_t>(at)) * of_half(one);
      }
    }
    out.w.scales.values = stored.data();
    if (eight) out.w.scales.unit = pointer<uint16_t>(*unit);
    return values;
  }

  void levels() {
    const int64_t count = o.symmetric ? o.alphabet / 2 : o.alphabet,
                  tables = o.table_per_row ? o.rows : 1;
    Buffer& stored = buffer(tables * groups * count * 2);
    out.w.levels = pointer<uint16_t>(stored), out.w.table_rows = tables,
    out.w.symmetric = o.symmetric, out.w.scale = 0.3f;
    for (int64_t t = 0; t < tables * groups; ++t) {
      std::vector<float> drawn;
      for (int64_t c = 0; c < count; ++c)
        drawn.push_back(o.symmetric ? std::fabs(random.normal()) : random.normal());
      std::sort(drawn.begin(), drawn.end());
      for (int64_t c = 0; c < count; ++c)
        stored.put(size_t(t * count + c), half_of(drawn[size_t(c)]));
    }
    for (int64_t i = 0; i < o.rows; ++i) {
      for (int64_t j = 0; j < o.columns; ++j) {
        const int64_t table = ((o.table_per_row ? i : 0) * groups + j / o.group_size) * count,
                      code = codes[size_t(i * o.columns + j)];
        const bool negative = o.symmetric && code < count;
        const int64_t level = !o.symmetric ? code : negative ? count - 1 - code : code - count;
        const float magnitude = out.w.scale * of_half(stored.get<uint16_t>(size_t(table + level)));
        out.values.push_back(negative ? -magnitude : magnitude);
      }
    }
  }

  void uniform() {
    out.w.scale = 0x1p-3f;
    const std::vector<float> scales = numbers();
    Buffer* zeros = o.zero_kind ? &buffer(o.rows * groups * o.zero_kind) : nullptr;
    std::vector<float> points(size_t(o.rows * groups), float(o.alphabet - 1) / 2);
    for (size_t at = 0; at < points.size() && zeros; ++at) {
      if (o.zero_kind == 1)
        zeros->put(at, uint8_t(random.below(o.alphabet))), points[at] = zeros->get<uint8_t>(at);
      if (o.zero_kind == 2)
        zeros->put(at, half_of(random.unit() * float(o.alphabet) - 0.7f)),
            points[at] = of_half(zeros->get<uint16_t>(at));
    }
    out.w.zero_kind = o.zero_kind;
    if (zeros) out.w.zeros = zeros->data();
    Buffer* column = o.column_scale ? &buffer(2 * o.columns) : nullptr;
    for (int64_t j = 0; j < o.columns && column; ++j)
      column->put(size_t(j), half_of(0.5 + random.unit()));
    if (column) out.w.column_scale = pointer<uint16_t>(*column);
    for (int64_t i = 0; i < o.rows; ++i) {
      for (int64_t j = 0; j < o.columns; ++j) {
        const size_t g = size_t(i * groups + j / o.group_size);
        const float value =
            (float(codes[size_t(i * o.columns + j)]) - points[g]) * (scales[g] * out.w.scale);
        out.values.push_back(column ? value * of_half(column->get<uint16_t>(size_t(j))) : value);
      }
    }
  }

  void plane() {
    out.w.scale = o.blocks ? 1.0f : 0x1p2f;
    std::vector<float> scales;
    if (!o.blocks) scales = numbers();
    for (int64_t g = 0; g < o.rows * groups && o.blocks; ++g)
      scales.push_back(of_half(half_of(random.normal())));
    for (int64_t i = 0; i < o.rows; ++i) {
      for (int64_t j = 0; j < o.columns; ++j) {
        const float scale = scales[size_t(i * groups + j / o.group_size)] * out.w.scale;
        out.values.push_back(codes[size_t(i * o.columns + j)] ? scale : -scale);
      }
    }
    block_scales = scales;
  }
  std::vector<float> block_scales;

  void tail() {
    Buffer& levels = buffer(16);
    Buffer& scale = buffer(2 * o.rows);
    for (int c = 0; c < 4; ++c) levels.put(size_t(c), float(c < 2 ? c - 3 : c) * 1.37f);
    std::vector<uint32_t> entries;
    std::vector<uint16_t> own;
    out.starts.push_back(0);
    out.dense = out.values;
    for (int64_t i = 0; i < o.rows; ++i) {
      scale.put(size_t(i), half_of(0.5 + random.unit()));
      for (int64_t j = 0; j < o.columns; ++j) {
        if (random.unit() >= o.tail) continue;
        const int tail_code = o.tail_values ? 0 : random.below(4);
        const size_t at = size_t(i * o.columns + j);
        own.push_back(half_of(3 * random.normal()));
        tail_at.push_back({at, tail_code,
                           o.tail_values ? out.w.scale * of_half(own.back())
                                         : out.w.scale * of_half(scale.get<uint16_t>(size_t(i))) *
                                               levels.get<float>(size_t(tail_code))});
        codes[at] = o.alphabet >= 4 ? tail_code : tail_code >> 1;
        entries.push_back(uint32_t(j << 2 | tail_code));
      }
      out.starts.push_back(int64_t(entries.size()));
    }
    Buffer& stored = buffer(int64_t(entries.size()) * (o.tail_wide ? 4 : 2));
    for (size_t e = 0; e < entries.size(); ++e)
      o.tail_wide ? stored.put(e, entries[e]) : stored.put(e, uint16_t(entries[e]));
    Buffer& starts = buffer(8 * (o.rows + 1));
    for (size_t e = 0; e < out.starts.size(); ++e) starts.put(e, out.starts[e]);
    out.w.tail_start = pointer<int64_t>(starts);
    out.w.tail_entries = stored.data(), out.w.tail_wide = o.tail_wide;
    if (!o.tail_values) {
      out.w.tail_levels = pointer<float>(levels);
      out.w.tail_scale = pointer<uint16_t>(scale);
      return;
    }
    if (own.empty()) own.push_back(0);  // NULL would mean a tail of codes
    Buffer& values = buffer(2 * int64_t(own.size()));
    for (size_t e = 0; e < own.size(); ++e) values.put(e, own[e]);
    out.w.tail_values = pointer<uint16_t>(values);
  }
  struct TailAt {
    size_t at;
    int code;
    float value;
  };
  std::vector<TailAt> tail_at;

  void pack() {
    Buffer& stored = buffer(o.rows * row_bytes);
    for (int64_t i = 0; i < o.rows; ++i) {
      for (int64_t j = 0; j < o.columns; ++j) {
        uint8_t* row = stored.data() + i * row_bytes;
        const int code = codes[size_t(i * o.columns + j)];
        if (!o.blocks) {
          put_field(row, j, o.bits, code);
          continue;
        }
        uint8_t* group = row + j / o.group_size * out.w.group_bytes;
        const uint16_t scale = half_of(block_scales[size_t(i * groups + j / o.group_size)]);
        __builtin_memcpy(group, &scale, 2);
        put_field(group + 2, j % o.group_size, 1, code);
      }
    }
    out.w.codes = stored.data();
  }

  void build() {
    groups = (o.columns + o.group_size - 1) / o.group_size;
    if (o.blocks) out.w.group_bytes = 2 + o.group_size / 8;
    row_bytes = o.blocks ? groups * out.w.group_bytes : (o.columns * o.bits + 7) / 8;
    out.w.kind = o.kind, out.w.bits = o.bits, out.w.rows = o.rows, out.w.columns = o.columns,
    out.w.group_size = o.group_size;
    out.w.groups = groups, out.w.row_bytes = row_bytes, out.w.alphabet = o.alphabet,
    out.w.table_rows = 1;
    for (int64_t at = 0; at < o.rows * o.columns; ++at) codes.push_back(random.below(o.alphabet));
    out.w.scale = 0.3f;
    if (o.tail > 0) tail();
    if (o.kind == BIVLM_KIND_LEVELS) levels();
    if (o.kind == BIVLM_KIND_UNIFORM) uniform();
    if (o.kind == BIVLM_KIND_PLANE) plane();
    out.dense = out.values;
    for (const TailAt& entry : tail_at) out.values[entry.at] = entry.value;
    pack();
  }
};

}  // namespace

Buffer& Weight::buffer(int64_t bytes, int offset) {
  std::vector<Buffer> one;
  one.emplace_back(size_t(bytes), offset);
  buffers.push_back(std::move(one));
  return buffers.back()[0];
}

Weight::Weight(const Options& o, uint32_t seed) {
  if (o.planes) {
    build_planes(*this, o, seed);
    return;
  }
  Builder builder{*this, o, Random(seed), 0, 0, {}, {}, {}};
  builder.build();
  char text[256];
  std::snprintf(text, sizeof text,
                "kind %d, %d bits, alphabet %d%s, %lld x %lld, groups of %lld, numbers %d, zeros "
                "%d, tail %g%s%s%s%s, offset %d",
                o.kind, o.bits, o.alphabet, o.symmetric ? " symmetric" : "", (long long)o.rows,
                (long long)o.columns, (long long)o.group_size, o.numbers, o.zero_kind, o.tail,
                o.tail_values ? " of values" : "", o.blocks ? ", blocks" : "",
                o.column_scale ? ", column scales" : "", o.table_per_row ? "" : ", one table",
                o.offset);
  words = text;
}

}  // namespace test
