// The rotation of the inputs against the sum over all pairs of columns; its own inverse,
// orthogonal, the same with every number of threads.
#include <cmath>

#include "buffers.h"
#include "check.h"
#include "rotation/rotated.h"
#include "tests.h"

namespace test {
namespace {

double norm(const std::vector<double>& x) {
  double sum = 0;
  for (const double v : x) sum += v * v;
  return std::sqrt(sum);
}

std::string say(int64_t columns, int64_t blocks, int64_t batch, int dtype, const char* set) {
  return "rotate " + std::to_string(columns) + " columns in " + std::to_string(blocks) +
         ", batch " + std::to_string(batch) + ", dtype " + std::to_string(dtype) + ", " + set;
}

void compare(int64_t columns, int64_t blocks, int64_t batch, int dtype, int offset, bool with_signs,
             Random& random) {
  const int64_t stride = columns + (batch > 2 ? 3 : 0);
  Buffer x(size_t((batch - 1) * stride + columns) * (dtype ? 2 : 4), offset),
      signs(size_t(columns) * 4, offset);
  for (size_t i = 0; i < size_t((batch - 1) * stride + columns); ++i)
    put(x, i, random.normal(), dtype);
  std::vector<float> sign_list;
  for (int64_t j = 0; j < columns && with_signs; ++j) {
    sign_list.push_back(random.below(2) ? 1.0f : -1.0f);
    signs.put(size_t(j), sign_list.back());
  }
  std::vector<std::vector<double>> expected;
  for (int64_t b = 0; b < batch; ++b) {
    std::vector<float> row;
    for (int64_t j = 0; j < columns; ++j) row.push_back(get(x, size_t(b * stride + j), dtype));
    expected.push_back(rotated(row, sign_list, blocks));
  }
  const float* given = with_signs ? reinterpret_cast<const float*>(signs.data()) : nullptr;
  for (const char* set : instruction_sets()) {
    bivlm_use_instruction_set(set);
    Buffer out(size_t(batch * columns) * 4, offset);
    CHECK(bivlm_rotate(x.data(), stride, batch, dtype, columns, blocks, given,
                       reinterpret_cast<float*>(out.data()), 1 + int(batch) % 4) == 0,
          say(columns, blocks, batch, dtype, set));
    for (int64_t b = 0; b < batch; ++b) {
      std::vector<double> difference;
      for (int64_t j = 0; j < columns; ++j)
        difference.push_back(out.get<float>(size_t(b * columns + j)) -
                             expected[size_t(b)][size_t(j)]);
      CHECK(norm(difference) <= 1e-6 * norm(expected[size_t(b)]),
            say(columns, blocks, batch, dtype, set));
    }
  }
}

// Widths at which the direct sum would take too long: twice the transform is the input, and lengths
// stay what they are.
void invert(int64_t columns, Random& random) {
  std::vector<float> x, y(size_t(3 * columns)), z(size_t(3 * columns)), other(size_t(3 * columns));
  for (int64_t i = 0; i < 3 * columns; ++i) x.push_back(random.normal());
  for (const char* set : instruction_sets()) {
    bivlm_use_instruction_set(set);
    bivlm_rotate(x.data(), columns, 3, 0, columns, 1, nullptr, y.data(), 1);
    bivlm_rotate(x.data(), columns, 3, 0, columns, 1, nullptr, other.data(), 3);
    CHECK(y == other, say(columns, 1, 3, 0, set) + ", threads");
    bivlm_rotate(y.data(), columns, 3, 0, columns, 1, nullptr, z.data(), 2);
    double before = 0, after = 0, worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      before += double(x[i]) * x[i], after += double(y[i]) * y[i];
      worst = std::max(worst, std::fabs(double(z[i]) - x[i]));
    }
    CHECK(worst <= 2e-5, say(columns, 1, 3, 0, set) + ", inverse");
    CHECK(std::fabs(after - before) <= 1e-5 * before, say(columns, 1, 3, 0, set) + ", length");
  }
}

void refuse() {
  float x[4] = {1, 2, 3, 4}, y[4];
  CHECK(bivlm_rotate(x, 4, 1, 3, 4, 1, nullptr, y, 1) == BIVLM_ERROR_DTYPE, "dtype");
  CHECK(bivlm_rotate(x, 4, 1, 0, 0, 1, nullptr, y, 1) == BIVLM_ERROR_SHAPE, "columns");
  CHECK(bivlm_rotate(x, 4, -1, 0, 4, 1, nullptr, y, 1) == BIVLM_ERROR_SHAPE, "batch");
  CHECK(bivlm_rotate(x, -4, 2, 0, 2, 1, nullptr, y, 1) == BIVLM_ERROR_SHAPE, "stride");
  CHECK(bivlm_rotate(nullptr, 4, 1, 0, 4, 1, nullptr, y, 1) == BIVLM_ERROR_SHAPE, "no x");
  CHECK(bivlm_rotate(x, 4, 1, 0, 4, 1, nullptr, nullptr, 1) == BIVLM_ERROR_SHAPE, "no output");
  CHECK(bivlm_rotate(nullptr, 4, 0, 0, 4, 1, nullptr, nullptr, 1) == 0, "empty batch");
}

}  // namespace

void test_rotate() {
  Random random(3);
  int turn = 0;
  for (int64_t columns = 1; columns <= 130; ++columns, ++turn)
    compare(columns, 1, 1 + turn % 3, turn % 3, turn % 5, turn % 2, random);
  for (const int64_t blocks : {2, 3, 5, 8}) {
    for (int64_t width = 1; width <= 48; width += 1 + turn % 3, ++turn)
      compare(blocks * width, blocks, 1 + turn % 3, turn % 3, turn % 5, turn % 2, random);
  }
  for (const int64_t columns : {192, 243, 256, 257, 269, 301, 384, 512, 576}) {
    ++turn;
    compare(columns, 1, 1 + turn % 3, turn % 3, 0, true, random);
  }
  for (const int64_t columns : {1000, 1024, 1125, 1152, 1280, 2048, 2053, 3420, 4096, 4304, 11008})
    invert(columns, random);
  refuse();
}

}  // namespace test
