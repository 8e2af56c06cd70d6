// Products with trellis weights against sums in double, and their unpacking, bit for bit.
#include <cmath>
#include <cstring>
#include <limits>

#include "check.h"
#include "rotation/rotated.h"
#include "tests.h"
#include "trellis/weights.h"

namespace test {
namespace {

struct Call {
  int64_t batch = 1, stride = 0;
  int dtype = 0, threads = 1;
  bool bias = false;
};

std::string say(const TrellisWeight& weight, const Call& call, const char* set, int activations) {
  char text[160];
  std::snprintf(text, sizeof text,
                "; %s, batch %lld, stride %lld, dtype %d, activations %d, threads %d, bias %d", set,
                (long long)call.batch, (long long)call.stride, call.dtype, activations,
                call.threads, call.bias);
  return weight.words + text;
}

struct Expected {
  std::vector<double> y, size, rounding;  // the sums, the length of weight and input, and what
                                          // inputs rounded to int8 may change at most
};

// One token; `x` as the library reads it
void expect(const TrellisWeight& weight, const std::vector<float>& x, Buffer* bias, int dtype,
            Expected& e) {
  const int64_t rows = weight.w.rows, columns = weight.w.columns;
  const std::vector<double> input = weight.w.signs ? rotated(x, weight.signs, weight.w.blocks)
                                                   : std::vector<double>(x.begin(), x.end());
  double top = 0, length = 0;
  for (const double v : input) top = std::max(top, std::fabs(v)), length += v * v;
  for (int64_t i = 0; i < rows; ++i) {
    double y = 0, square = 0, sum = 0;
    const double scale = weight.scales[size_t(i)];
    for (int64_t j = 0; j < columns; ++j) {
      const double value = weight.values[size_t(i * columns + j)] * scale;
      y += value * input[size_t(j)], square += value * value, sum += std::fabs(value);
    }
    e.y.push_back(bias ? y + get(*bias, size_t(i), dtype) : y);
    e.size.push_back(std::sqrt(square * length) + std::fabs(e.y.back()));
    e.rounding.push_back(sum * top / 254);
  }
}

// Every instruction set, both kinds of activations. The errors of single numbers are bounded by the
// lengths of the vectors that are multiplied.
void compare(const TrellisWeight& weight, const Call& call, int offset, Random& random) {
  const int64_t columns = weight.w.columns, rows = weight.w.rows,
                stride = call.stride ? call.stride : columns;
  Buffer x(size_t(call.batch ? (call.batch - 1) * stride + columns : 0) * element(call.dtype),
           offset),
      bias(size_t(rows) * element(call.dtype), offset);
  for (size_t i = 0; i < x.size() / element(call.dtype); ++i)
    put(x, i, int64_t(i) % stride < columns ? random.normal() : 1e4f, call.dtype);
  for (int64_t i = 0; i < rows; ++i) put(bias, size_t(i), random.normal(), call.dtype);
  Expected e;
  for (int64_t b = 0; b < call.batch; ++b) {
    std::vector<float> row;
    for (int64_t j = 0; j < columns; ++j) row.push_back(get(x, size_t(b * stride + j), call.dtype));
    expect(weight, row, call.bias ? &bias : nullptr, call.dtype, e);
  }
  for (const char* set : instruction_sets()) {
    bivlm_use_instruction_set(set);
    for (int activations = 0; activations < 2; ++activations) {
      Buffer y(size_t(call.batch * rows) * element(call.dtype), offset);
      const int code =
          bivlm_trellis_linear(&weight.w, x.data(), stride, call.batch, call.dtype, y.data(),
                               call.bias ? bias.data() : nullptr, activations, call.threads);
      CHECK(code == 0, say(weight, call, set, activations));
      double worst = 0;
      for (size_t i = 0; i < e.y.size(); ++i) {
        const double output =
            call.dtype == 0 ? 0 : std::fabs(e.y[i]) * (call.dtype == 1 ? 0x1p-8 : 0x1p-11) + 1e-7;
        const double allowed =
            2e-6 * e.size[i] + output + (activations ? 1.01 * e.rounding[i] : 0) + 1e-30;
        worst = std::max(worst, std::fabs(get(y, i, call.dtype) - e.y[i]) / allowed);
      }
      CHECK(worst <= 1, say(weight, call, set, activations) + " " + std::to_string(worst));
    }
  }
}

// All rows and some of them, in every dtype: one rounding of scale * value
void unpack(const TrellisWeight& weight, int64_t begin, int64_t end, int threads, int offset) {
  const int64_t columns = weight.w.columns;
  for (const char* set : instruction_sets()) {
    bivlm_use_instruction_set(set);
    for (int dtype = 0; dtype < 3; ++dtype) {
      Buffer out(size_t((end - begin) * columns) * element(dtype), offset);
      CHECK(bivlm_trellis_unpack(&weight.w, begin, end, out.data(), dtype, threads) == 0,
            weight.words);
      bool same = true;
      for (int64_t i = 0; i < (end - begin) * columns; ++i) {
        const float value = float(weight.values[size_t(begin * columns + i)]) *
                            weight.scales[size_t(begin + i / columns)];
        const float expected = dtype == 0   ? value
                               : dtype == 1 ? of_bfloat(bfloat_of(value))
                                            : of_half(half_of(value));
        same = same && get(out, size_t(i), dtype) == expected;
      }
      CHECK(same, weight.words + ", rows " + std::to_string(begin) + " to " + std::to_string(end) +
                      ", dtype " + std::to_string(dtype) + ", " + set);
    }
  }
}

const std::vector<std::vector<int>> kMixes = {
    {1}, {2}, {3}, {4}, {2, 1}, {0, 2}, {3, 0, 1, 4}, {1, 1, 2, 3, 3, 0, 0, 4, 2}, {4, 3, 2, 1, 0},
    {0}};

void test_shapes() {
  Random random(4);
  int turn = 0;
  for (const int64_t rows : {1, 15, 16, 17, 48, 63, 64, 65, 80, 112, 128, 150, 200}) {
    for (const int64_t columns :
         {1, 3, 4, 15, 16, 17, 31, 33, 64, 100, 127, 128, 129, 150, 192, 257, 300}) {
      for (int repeat = 0; repeat < 3; ++repeat, ++turn) {
        TrellisOptions o;
        o.rows = rows, o.columns = columns;
        o.window = turn % 2 ? 8 : turn % 4 ? 12 : 16;
        o.bits = kMixes[size_t(turn) % kMixes.size()];
        o.one_table = turn % 5 == 0, o.rotated = turn % 3 == 0;
        o.blocks = turn % 2 && columns % 3 == 0 ? 3 : turn % 4 && columns % 2 == 0 ? 2 : 1;
        o.cut = turn % 5 > 2;
        o.offset = turn % 7 ? 0 : 1 + random.below(7);
        const TrellisWeight weight(o, uint32_t(turn));
        Call call;
        call.batch = int64_t(std::vector<int>{1, 2, 3, 0, 5, 1, 16, 4}[size_t(turn) % 8]);
        call.stride = turn % 3 ? 0 : columns + random.below(9);
        call.dtype = turn % 11 % 3, call.bias = turn % 4 < 2, call.threads = 1 + turn % 4;
        compare(weight, call, o.offset, random);
        const int64_t begin = random.below(int(rows));
        unpack(weight, begin, begin + 1 + random.below(int(rows - begin)), 1 + turn % 3, o.offset);
      }
    }
  }
}

// Enough strips for several threads; every mix with every window
void test_wide() {
  Random random(5);
  int turn = 0;
  for (const int window : {8, 12, 16}) {
    for (const std::vector<int>& bits : kMixes) {
      TrellisOptions o;
      o.rows = 500, o.columns = 1152, o.window = window, o.bits = bits, o.rotated = ++turn % 2;
      o.blocks = turn % 4 == 1 ? 8 : 1, o.cut = turn % 3 == 0;
      const TrellisWeight weight(o, uint32_t(turn));
      Call call;
      call.batch = 1 + turn % 5, call.threads = 1 + turn % 4;
      compare(weight, call, 0, random);
      unpack(weight, 0, 500, call.threads, 0);
    }
  }
}

// The bits of the results are the same with every number of threads.
void test_threads() {
  TrellisOptions o;
  o.rows = 1000, o.columns = 1024, o.bits = {2, 1, 3}, o.rotated = true;
  const TrellisWeight weight(o, 6);
  Random random(6);
  std::vector<float> x, first(5000), y(5000);
  for (int i = 0; i < 5 * 1024; ++i) x.push_back(random.normal());
  for (const char* set : instruction_sets()) {
    bivlm_use_instruction_set(set);
    bivlm_trellis_linear(&weight.w, x.data(), 1024, 5, 0, first.data(), nullptr, 0, 1);
    for (int threads = 2; threads <= 4; ++threads) {
      bivlm_trellis_linear(&weight.w, x.data(), 1024, 5, 0, y.data(), nullptr, 0, threads);
      CHECK(y == first, weight.words);
    }
  }
}

// What is no number in the input is none in every result; zeros and tiny numbers do no harm
void test_special() {
  TrellisOptions o;
  o.rows = 70, o.columns = 300;
  for (const bool turned : {false, true}) {
    o.rotated = turned;
    const TrellisWeight weight(o, 7);
    for (const char* set : instruction_sets()) {
      bivlm_use_instruction_set(set);
      for (int activations = 0; activations < 2; ++activations) {
        for (const float value : {std::numeric_limits<float>::quiet_NaN(),
                                  std::numeric_limits<float>::infinity(), 0.0f, 1e-44f, 1e-38f}) {
          std::vector<float> x(300, std::isfinite(value) ? value : 1.0f), y(70, -1.0f);
          x[137] = value;
          CHECK(bivlm_trellis_linear(&weight.w, x.data(), 300, 1, 0, y.data(), nullptr, activations,
                                     1) == 0,
                weight.words);
          bool good = true;
          for (size_t i = 0; i < 70; ++i) {
            const bool zero =
                weight.values[i * 300 + 137] == 0 && !turned &&
                !std::strcmp(set,
                             "portable");  // there an infinity that meets a zero alone is no number
            good =
                good &&
                (zero || (std::isfinite(value) ? std::fabs(y[i]) <= 1e-31f : !std::isfinite(y[i])));
          }
          CHECK(good, weight.words + ", " + std::to_string(value) + ", " + set);
        }
      }
    }
  }
}

int linear(const bivlm_trellis& w, int64_t batch = 1, int dtype = 0, bool x = true, bool y = true) {
  static std::vector<float> in(4096, 1.0f), out(4096);
  return bivlm_trellis_linear(&w, x ? in.data() : nullptr, w.columns, batch, dtype,
                              y ? out.data() : nullptr, nullptr, 0, 1);
}

void test_refused() {
  const TrellisWeight weight(TrellisOptions{}, 8);
  TrellisOptions turned;
  turned.rotated = true, turned.blocks = 3;
  const auto with = [&](auto change) {
    bivlm_trellis w = weight.w;
    change(w);
    return linear(w);
  };
  const uint8_t wide[4] = {2, 5, 2, 2};
  CHECK(linear(weight.w) == 0, "good");
  CHECK(linear(weight.w, 0, 0, false, false) == 0, "empty batch");
  CHECK(with([](bivlm_trellis& w) { w.rows = 0, w.codes = nullptr, w.row_scale = nullptr; }) == 0,
        "no rows");
  CHECK(linear(weight.w, 1, 3) == BIVLM_ERROR_DTYPE, "dtype");
  CHECK(linear(weight.w, 1, 0, false) == BIVLM_ERROR_SHAPE, "no x");
  CHECK(linear(weight.w, 1, 0, true, false) == BIVLM_ERROR_SHAPE, "no y");
  CHECK(linear(weight.w, -1) == BIVLM_ERROR_SHAPE, "batch");
  CHECK(with([](bivlm_trellis& w) { w.columns = 0; }) == BIVLM_ERROR_SHAPE, "columns");
  CHECK(with([](bivlm_trellis& w) { w.code_bytes -= 1; }) == BIVLM_ERROR_SHAPE, "code bytes");
  CHECK(linear(TrellisWeight(turned, 9).w) == BIVLM_ERROR_SHAPE, "3 blocks of 64 columns");
  turned.blocks = 0;
  CHECK(linear(TrellisWeight(turned, 9).w) == BIVLM_ERROR_SHAPE, "no blocks");
  CHECK(with([](bivlm_trellis& w) { w.window = 9; }) == BIVLM_ERROR_WEIGHT, "window");
  CHECK(with([](bivlm_trellis& w) { w.table_stride = 4; }) == BIVLM_ERROR_WEIGHT, "table stride");
  CHECK(with([](bivlm_trellis& w) { w.table = nullptr; }) == BIVLM_ERROR_WEIGHT, "no table");
  CHECK(with([](bivlm_trellis& w) { w.bits = nullptr; }) == BIVLM_ERROR_WEIGHT, "no bits");
  CHECK(with([&](bivlm_trellis& w) { w.bits = wide; }) == BIVLM_ERROR_WEIGHT, "bits");
  CHECK(with([](bivlm_trellis& w) { w.codes = nullptr; }) == BIVLM_ERROR_WEIGHT, "no codes");
  CHECK(with([](bivlm_trellis& w) { w.row_scale = nullptr; }) == BIVLM_ERROR_WEIGHT,
        "no row scales");
  CHECK(
      bivlm_trellis_linear(nullptr, nullptr, 0, 0, 0, nullptr, nullptr, 0, 1) == BIVLM_ERROR_WEIGHT,
      "no weight");
  std::vector<float> out(64 * 64);
  CHECK(bivlm_trellis_unpack(&weight.w, 2, 2, nullptr, 0, 1) == 0, "no rows to unpack");
  CHECK(bivlm_trellis_unpack(&weight.w, 0, 65, out.data(), 0, 1) == BIVLM_ERROR_SHAPE,
        "rows beyond the end");
  CHECK(bivlm_trellis_unpack(&weight.w, 3, 2, out.data(), 0, 1) == BIVLM_ERROR_SHAPE,
        "rows backwards");
  CHECK(bivlm_trellis_unpack(&weight.w, 0, 5, out.data(), 7, 1) == BIVLM_ERROR_DTYPE, "dtype");
  CHECK(bivlm_trellis_unpack(&weight.w, 0, 5, nullptr, 0, 1) == BIVLM_ERROR_SHAPE, "no output");
}

}  // namespace

void test_trellis_linear() {
  test_refused();
  test_special();
  test_threads();
  test_shapes();
  test_wide();
}

}  // namespace test
