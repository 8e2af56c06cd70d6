// Products against sums in double.
#include <cmath>

#include "check.h"
#include "codes/cases.h"
#include "tests.h"

namespace test {
namespace {

struct Call {
  int64_t batch = 1, stride = 0;
  int dtype = 0, activations = 0, threads = 1, offset = 0;
  bool bias = false;
};

struct Expected {
  std::vector<double> y, magnitude,
      rounding;  // the sums, those of the magnitudes, and what int8 inputs may change at most
};

Expected expect(const Weight& weight, const std::vector<float>& x, const std::vector<float>& bias,
                int64_t batch) {
  const int64_t rows = weight.w.rows, columns = weight.w.columns;
  Expected e;
  for (int64_t b = 0; b < batch; ++b) {
    std::vector<double> step(size_t(columns), 0.0);
    for (int64_t j = 0; j < columns; j += 128) {
      double top = 0;
      // column scales lie between 0.5 and 1.5 and are multiplied before the rounding: three times
      // the range covers it
      for (int64_t k = j; k < std::min(columns, j + 128); ++k)
        top = std::max(top, std::fabs(double(x[size_t(b * columns + k)])));
      for (int64_t k = j; k < std::min(columns, j + 128); ++k)
        step[size_t(k)] = top / 254 * (weight.w.column_scale ? 3 : 1);
    }
    for (int64_t i = 0; i < rows; ++i) {
      double y = bias.empty() ? 0 : bias[size_t(i)], magnitude = std::fabs(y), rounding = 0;
      for (int64_t j = 0; j < columns; ++j) {
        const double value = weight.values[size_t(i * columns + j)],
                     dense = weight.dense[size_t(i * columns + j)];
        const double input = x[size_t(b * columns + j)];
        y += value * input;
        magnitude +=
            (std::fabs(value) + (value != dense ? std::fabs(dense) : 0)) * std::fabs(input);
        rounding += std::max(std::fabs(value), std::fabs(dense)) * step[size_t(j)];
      }
      e.y.push_back(y), e.magnitude.push_back(magnitude), e.rounding.push_back(rounding);
    }
  }
  return e;
}

struct Inputs {
  std::vector<float> x, bias;
  Buffer x_bytes, bias_bytes;
};

Inputs draw(const Weight& weight, const Call& call, Random& random) {
  const int64_t columns = weight.w.columns, width = call.stride ? call.stride : columns;
  const int64_t elements = call.batch ? (call.batch - 1) * width + columns : 0;
  Inputs in{{},
            {},
            Buffer(size_t(elements) * element(call.dtype), call.offset),
            Buffer(size_t(weight.w.rows) * element(call.dtype), call.offset)};
  for (int64_t b = 0; b < call.batch; ++b) {
    for (int64_t j = 0; j < columns; ++j) {
      put(in.x_bytes, size_t(b * width + j), random.normal(), call.dtype);
      in.x.push_back(get(in.x_bytes, size_t(b * width + j), call.dtype));
    }
    for (int64_t j = columns; j < width && b + 1 < call.batch; ++j)
      put(in.x_bytes, size_t(b * width + j), 1e4f, call.dtype);
  }
  for (int64_t i = 0; i < weight.w.rows && call.bias; ++i) {
    put(in.bias_bytes, size_t(i), random.normal(), call.dtype);
    in.bias.push_back(get(in.bias_bytes, size_t(i), call.dtype));
  }
  return in;
}

std::string words(const Weight& weight, const Call& call, const char* set) {
  char text[160];
  std::snprintf(text, sizeof text,
                "; %s, batch %lld, stride %lld, dtype %d, activations %d, threads %d, bias %d", set,
                (long long)call.batch, (long long)call.stride, call.dtype, call.activations,
                call.threads, call.bias);
  return weight.words + text;
}

// Every instruction set, both kinds of activations. `relative`: also the largest error over the
// largest result.
void compare(const Weight& weight, Call call, Random& random, bool relative) {
  Inputs in = draw(weight, call, random);
  const Expected e = expect(weight, in.x, in.bias, call.batch);
  const size_t count = size_t(call.batch * weight.w.rows);
  for (const char* set : instruction_sets()) {
    bivlm_use_instruction_set(set);
    for (call.activations = 0; call.activations < 2; ++call.activations) {
      Buffer y(count * element(call.dtype), call.offset);
      const int64_t stride = call.stride ? call.stride : weight.w.columns;
      const int code =
          bivlm_linear(&weight.w, in.x_bytes.data(), stride, call.batch, call.dtype, y.data(),
                       call.bias ? in.bias_bytes.data() : nullptr, call.activations, call.threads);
      CHECK(code == 0, words(weight, call, set));
      double worst = 0, top = 0;
      bool close = true;
      for (size_t i = 0; i < count; ++i) {
        const double error = std::fabs(get(y, i, call.dtype) - e.y[i]);
        const double output =
            call.dtype == 0 ? 0 : std::fabs(e.y[i]) * (call.dtype == 1 ? 0x1p-8 : 0x1p-11) + 1e-7;
        const double allowed =
            2e-6 * e.magnitude[i] + 1e-30 + output +
            (call.activations ? 1.01 * e.rounding[i] + 1e-4 * e.magnitude[i] : 0);
        close = close && error <= allowed * 1.02;
        worst = std::max(worst, error), top = std::max(top, std::fabs(e.y[i]));
      }
      CHECK(close, words(weight, call, set));
      if (relative && call.dtype == 0)
        CHECK(worst <= (call.activations ? 2e-2 : 1e-5) * top,
              words(weight, call, set) + " " + std::to_string(worst / top));
    }
  }
}

}  // namespace

void test_linear() {
  Random random(1);
  int turn = 0;
  for (const int64_t columns : widths()) {
    for (const int64_t group_size : group_sizes(columns)) {
      Options o;
      o.columns = columns, o.group_size = group_size;
      ++turn;
      for_kinds(o, turn, [&](const Options& drawn) {
        Options options = drawn;
        ++turn;
        options.rows = 1 + random.below(6);
        options.offset = turn % 3 == 0 ? 1 + random.below(7) : 0;
        const Weight weight(options, uint32_t(turn));
        Call call;
        call.batch = columns > 200 ? 1 + random.below(3)
                     : turn % 2    ? 1 + random.below(4)
                                   : random.below(18);
        call.stride = turn % 5 == 0 ? columns + random.below(9) : 0;
        call.dtype = turn % 3;
        call.offset = options.offset;
        call.bias = turn % 2;
        compare(weight, call, random, false);
      });
    }
  }
}

// Enough rows for several threads, and the figures that the project promises
void test_large() {
  Random random(2);
  int turn = 0;
  for (const int64_t columns : {1024, 1500}) {
    for (const int64_t group_size : {32, 64, 128, 1500}) {
      Options o;
      o.rows = 203, o.columns = columns, o.group_size = std::min<int64_t>(group_size, columns);
      for_kinds(o, ++turn, [&](const Options& options) {
        const Weight weight(options, uint32_t(++turn));
        Call call;
        call.threads = 1 + turn % 4;
        call.batch = 1 + turn % 5;
        compare(weight, call, random, true);
      });
    }
  }
}

}  // namespace test
