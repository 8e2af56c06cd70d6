// Several products in one call: the same bits as one call each, with weights of unlike settings,
// inputs that are shared or not, any number of threads; and nothing written where one is refused.
#include <algorithm>
#include <functional>

#include "check.h"
#include "codes/weights.h"
#include "tests.h"
#include "trellis/weights.h"

namespace test {
namespace {

using Many = int (*)(const bivlm_product*, int64_t, int, int, int);

struct Products {
  std::vector<bivlm_product> all;
  std::vector<int64_t> rows;
  std::vector<Buffer> buffers;  // in threes: x, bias, y
};

void add(Products& p, const void* weight, int64_t rows, int64_t columns, int64_t batch, int dtype,
         bool bias, Random& random) {
  Buffer x(size_t(batch * columns) * element(dtype), 0), b(size_t(rows) * element(dtype), 0),
      y(size_t(batch * rows) * element(dtype), 0);
  for (int64_t i = 0; i < batch * columns; ++i) put(x, size_t(i), random.normal(), dtype);
  for (int64_t i = 0; i < rows; ++i) put(b, size_t(i), random.normal(), dtype);
  p.buffers.push_back(std::move(x)), p.buffers.push_back(std::move(b));
  p.buffers.push_back(std::move(y));
  Buffer* own = &p.buffers[p.buffers.size() - 3];
  p.all.push_back(
      {weight, own[0].data(), columns, batch, own[2].data(), bias ? own[1].data() : nullptr});
  p.rows.push_back(rows);
}

// The outputs of all products, one after the other
std::vector<uint8_t> outputs(Products& p) {
  std::vector<uint8_t> all;
  for (size_t i = 2; i < p.buffers.size(); i += 3) {
    all.insert(all.end(), p.buffers[i].data(), p.buffers[i].data() + p.buffers[i].size());
    std::fill_n(p.buffers[i].data(), p.buffers[i].size(), uint8_t(0x5a));
  }
  return all;
}

void compare(Products& p, int dtype, Many many,
             const std::function<int(const bivlm_product&, int)>& one, const std::string& words) {
  for (const char* set : instruction_sets()) {
    bivlm_use_instruction_set(set);
    for (int activations = 0; activations < 2; ++activations) {
      outputs(p);
      for (const bivlm_product& product : p.all)
        CHECK(one(product, activations) == 0, words + ", one, " + set);
      const std::vector<uint8_t> expected = outputs(p);
      for (int threads = 1; threads <= 3; ++threads) {
        CHECK(many(p.all.data(), int64_t(p.all.size()), dtype, activations, threads) == 0, words);
        CHECK(outputs(p) == expected, words + ", " + set + ", threads " + std::to_string(threads));
      }
    }
  }
}

// Every second product after the first takes the x of the first.
void share_inputs(Products& p) {
  for (size_t i = 2; i < p.all.size(); i += 2) {
    p.all[i].x = p.all[0].x;
    p.all[i].batch = std::min(p.all[i].batch, p.all[0].batch);
  }
}

void test_trellises() {
  Random random(11);
  const std::vector<std::vector<int>> mixes = {{2}, {2}, {3, 1}, {2}, {0, 2}, {1}, {4}, {0}};
  for (int turn = 0; turn < 12; ++turn) {
    std::vector<TrellisOptions> options;
    for (size_t i = 0; i < mixes.size(); ++i) {
      TrellisOptions o;
      o.rows = turn % 2 ? 300 : 17 + random.below(120), o.columns = 192, o.bits = mixes[i];
      o.window = turn % 3 || i % 3 ? 8 : 12;
      o.one_table = turn % 4 == 3, o.rotated = turn % 2 == 0 || i % 3,
      o.blocks = i % 4 == 3 ? 3 : 1;
      options.push_back(o);
    }
    Products p;
    std::vector<TrellisWeight*> weights;
    p.buffers.reserve(3 * options.size());
    const int dtype = turn % 3;
    for (size_t i = 0; i < options.size(); ++i) {
      weights.push_back(new TrellisWeight(options[i], uint32_t(turn * 100 + int(i) / 2 * 2)));
      add(p, &weights[i]->w, options[i].rows, 192,
          turn % 5 == 4 ? 0 : 1 + random.below(turn % 4 + 1), dtype, turn % 2, random);
    }
    if (turn % 3) share_inputs(p);
    compare(
        p, dtype, bivlm_trellis_linear_many,
        [&](const bivlm_product& q, int activations) {
          return bivlm_trellis_linear(static_cast<const bivlm_trellis*>(q.weight), q.x, q.x_stride,
                                      q.batch, dtype, q.y, q.bias, activations, 1);
        },
        "trellis, turn " + std::to_string(turn));
    for (TrellisWeight* weight : weights) delete weight;
  }
}

void test_codes() {
  Random random(12);
  for (int turn = 0; turn < 16; ++turn) {
    Products p;
    std::vector<Weight*> weights;
    p.buffers.reserve(30);
    const int dtype = turn % 3;
    for (int i = 0; i < 10; ++i) {
      Options o;
      o.kind = i % 3 == 0 ? BIVLM_KIND_LEVELS : i % 3 == 1 ? BIVLM_KIND_UNIFORM : BIVLM_KIND_PLANE;
      o.bits = o.kind == BIVLM_KIND_PLANE ? 1 : 1 + (turn + i / 3) % 3;
      o.alphabet = 1 << o.bits;
      o.rows = turn % 2 ? 150 : 1 + random.below(90), o.columns = 512;
      o.group_size = turn % 4 < 2 ? 512 : 128;
      o.planes = o.kind == BIVLM_KIND_PLANE && (turn + i) % 2;
      o.parts = 1 + turn % 2, o.salient_parts = turn % 3, o.means = turn % 4;
      o.blocks = o.kind == BIVLM_KIND_PLANE && !o.planes && o.group_size == 128 && turn % 8 > 3;
      o.tail = o.kind == BIVLM_KIND_LEVELS && turn % 3 == 0 ? 0.05 : 0;
      o.table_per_row = turn % 5 != 0;
      o.column_scale = (o.kind == BIVLM_KIND_UNIFORM || o.planes) && turn % 3 == 1;
      weights.push_back(new Weight(o, uint32_t(turn * 100 + i)));
      add(p, &weights.back()->w, o.rows, 512,
          turn % 5 == 4 && i % 2 ? 0 : 1 + random.below(turn % 6 + 1), dtype, i % 2, random);
    }
    if (turn % 3) share_inputs(p);
    compare(
        p, dtype, bivlm_linear_many,
        [&](const bivlm_product& q, int activations) {
          return bivlm_linear(static_cast<const bivlm_weight*>(q.weight), q.x, q.x_stride, q.batch,
                              dtype, q.y, q.bias, activations, 1);
        },
        "codes, turn " + std::to_string(turn));
    for (Weight* weight : weights) delete weight;
  }
}

// `good` and `bad` are weights of 64 columns and at most 64 rows.
void refuse(Many many, const void* good, const void* bad, int error, const char* words) {
  std::vector<float> x(64, 1.0f), y(64, 7.0f);
  bivlm_product products[2] = {{good, x.data(), 64, 1, y.data(), nullptr},
                               {bad, x.data(), 64, 1, y.data(), nullptr}};
  CHECK(many(products, 2, 0, 0, 1) == error, words);
  CHECK(std::count(y.begin(), y.end(), 7.0f) == 64, "nothing is written");
  CHECK(many(nullptr, 0, 0, 0, 1) == 0, "no products");
  CHECK(many(nullptr, 1, 0, 0, 1) == BIVLM_ERROR_SHAPE, "no products, but a number of them");
  CHECK(many(products, -1, 0, 0, 1) == BIVLM_ERROR_SHAPE, "a negative number");
  CHECK(many(products, 1, 3, 0, 1) == BIVLM_ERROR_DTYPE, "dtype");
  products[0].batch = -1;
  CHECK(many(products, 1, 0, 0, 1) == BIVLM_ERROR_SHAPE, "batch");
  products[0].batch = 1, products[0].y = nullptr;
  CHECK(many(products, 1, 0, 0, 1) == BIVLM_ERROR_SHAPE, "no output");
  products[0].weight = nullptr;
  CHECK(many(products, 1, 0, 0, 1) == BIVLM_ERROR_WEIGHT, "no weight");
}

}  // namespace

void test_many() {
  const TrellisWeight trellis(TrellisOptions{}, 13);
  bivlm_trellis short_codes = trellis.w;
  short_codes.code_bytes -= 1;
  refuse(bivlm_trellis_linear_many, &trellis.w, &short_codes, BIVLM_ERROR_SHAPE, "code bytes");
  const Weight weight(Options{}, 14);
  bivlm_weight unknown = weight.w;
  unknown.kind = 3;
  refuse(bivlm_linear_many, &weight.w, &unknown, BIVLM_ERROR_WEIGHT, "kind");
  test_trellises();
  test_codes();
}

}  // namespace test
