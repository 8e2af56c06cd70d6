// Instruction sets, what the library says of its structs, errors, and inputs that are not finite.
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>

#include "check.h"
#include "codes/weights.h"
#include "tests.h"

namespace test {
namespace {

bool named(const char* found, const char* name) { return !std::strcmp(found, name); }

void test_instruction_sets() {
  CHECK(named(bivlm_use_instruction_set("portable"), "portable") &&
            named(bivlm_instruction_set(), "portable"),
        "portable");
  const char* best = bivlm_use_instruction_set(nullptr);
  CHECK(named(bivlm_use_instruction_set("none of them"), best) &&
            named(bivlm_instruction_set(), best),
        "an unknown name gives the best one");
  CHECK(named(instruction_sets().front(), best) && named(instruction_sets().back(), "portable"),
        "the best first, portable last");
  CHECK(!bivlm_instruction_set_name(-1) && !bivlm_instruction_set_name(99), "no more names");
#if defined(__x86_64__)
  CHECK(named(bivlm_use_instruction_set("neon"), best), "no NEON here");
#endif
}

void test_layout() {
  CHECK(bivlm_abi_version() == BIVLM_ABI_VERSION, "version");
  CHECK(bivlm_layout("bivlm_weight") == sizeof(bivlm_weight), "size");
  CHECK(bivlm_layout("bivlm_trellis.signs") == offsetof(bivlm_trellis, signs), "offset");
  CHECK(bivlm_layout("bivlm_product.bias") == offsetof(bivlm_product, bias), "offset");
  CHECK(bivlm_layout("BIVLM_KIND_PLANE") == BIVLM_KIND_PLANE, "constant");
  CHECK(bivlm_layout("bivlm_weight.nothing") == -1 && bivlm_layout("") == -1, "unknown");
}

int linear(const bivlm_weight& w, int64_t batch = 1, int dtype = 0, bool x = true, bool y = true) {
  static std::vector<float> in(4096, 1.0f), out(4096);
  return bivlm_linear(&w, x ? in.data() : nullptr, w.columns, batch, dtype,
                      y ? out.data() : nullptr, nullptr, 0, 1);
}

void test_errors() {
  Options o;
  const Weight weight(o, 5);
  const auto with = [&](auto change) {
    bivlm_weight w = weight.w;
    change(w);
    return linear(w);
  };
  CHECK(linear(weight.w) == 0, "good");
  CHECK(linear(weight.w, 0, 0, false, false) == 0, "empty batch");
  CHECK(with([](bivlm_weight& w) { w.rows = 0, w.table_rows = 1, w.codes = nullptr; }) == 0,
        "no rows");
  CHECK(linear(weight.w, 1, 3) == BIVLM_ERROR_DTYPE, "dtype");
  CHECK(linear(weight.w, 1, 0, false) == BIVLM_ERROR_SHAPE, "no x");
  CHECK(linear(weight.w, 1, 0, true, false) == BIVLM_ERROR_SHAPE, "no y");
  CHECK(linear(weight.w, -1) == BIVLM_ERROR_SHAPE, "batch");
  CHECK(with([](bivlm_weight& w) { w.groups = 2; }) == BIVLM_ERROR_SHAPE, "groups");
  CHECK(with([](bivlm_weight& w) { w.row_bytes -= 1; }) == BIVLM_ERROR_SHAPE, "row bytes");
  CHECK(with([](bivlm_weight& w) { w.kind = 3; }) == BIVLM_ERROR_WEIGHT, "kind");
  CHECK(with([](bivlm_weight& w) { w.bits = 9; }) == BIVLM_ERROR_WEIGHT, "bits");
  CHECK(with([](bivlm_weight& w) { w.bits = 5, w.row_bytes = 40; }) == BIVLM_ERROR_WEIGHT,
        "bits of levels");
  CHECK(with([](bivlm_weight& w) { w.alphabet = 5; }) == BIVLM_ERROR_WEIGHT, "alphabet");
  CHECK(with([](bivlm_weight& w) { w.levels = nullptr; }) == BIVLM_ERROR_WEIGHT, "no levels");
  CHECK(with([](bivlm_weight& w) { w.table_rows = 2; }) == BIVLM_ERROR_WEIGHT, "table rows");
  CHECK(with([](bivlm_weight& w) { w.codes = nullptr; }) == BIVLM_ERROR_WEIGHT, "no codes");
  Options tail;
  tail.tail = 0.3;
  for (const bool values : {false, true}) {
    tail.tail_values = values;
    bivlm_weight w = Weight(tail, 6).w;
    w.tail_levels = nullptr;
    w.tail_values = nullptr;
    CHECK(linear(w) == BIVLM_ERROR_WEIGHT, "a tail without numbers");
  }
  CHECK(bivlm_linear(nullptr, nullptr, 0, 0, 0, nullptr, nullptr, 0, 1) == BIVLM_ERROR_WEIGHT,
        "no weight");
  float out[64 * 5];
  CHECK(bivlm_unpack(&weight.w, 2, 2, nullptr, 0, 1) == 0, "no rows to unpack");
  CHECK(bivlm_unpack(&weight.w, 0, 6, out, 0, 1) == BIVLM_ERROR_SHAPE, "rows beyond the end");
  CHECK(bivlm_unpack(&weight.w, 3, 2, out, 0, 1) == BIVLM_ERROR_SHAPE, "rows backwards");
  CHECK(bivlm_unpack(&weight.w, 0, 5, out, 7, 1) == BIVLM_ERROR_DTYPE, "dtype");
  CHECK(bivlm_unpack(&weight.w, 0, 5, out, 0, -3) == 0,
        "a number of threads that makes no sense is one");
}

void test_errors_of_planes() {
  Options o;
  o.kind = BIVLM_KIND_PLANE, o.bits = 1, o.planes = true, o.parts = 2, o.salient_parts = 2;
  o.means = BIVLM_NUMBERS_INT8;
  const Weight mixed(o, 8);
  o.parts = 1, o.salient_parts = 0, o.tail = 0.3;
  const Weight tailed(o, 9);
  const auto with = [](const Weight& weight, auto change) {
    bivlm_weight w = weight.w;
    bivlm_planes planes = weight.planes;
    w.planes = &planes;
    change(planes);
    return linear(w);
  };
  CHECK(linear(mixed.w) == 0 && linear(tailed.w) == 0, "good");
  const auto refused = [&](const Weight& weight, int error, const char* words, auto change) {
    CHECK(with(weight, change) == error, words);
  };
  constexpr int kWeight = BIVLM_ERROR_WEIGHT, kShape = BIVLM_ERROR_SHAPE;
  refused(mixed, kWeight, "parts", [](bivlm_planes& p) { p.parts = 3; });
  refused(mixed, kWeight, "salient parts", [](bivlm_planes& p) { p.salient_parts = 3; });
  refused(mixed, kWeight, "no salient parts", [](bivlm_planes& p) { p.salient_parts = 0; });
  refused(mixed, kWeight, "no mask", [](bivlm_planes& p) { p.salient = nullptr; });
  refused(mixed, kWeight, "no partition", [](bivlm_planes& p) { p.partition = nullptr; });
  refused(mixed, kWeight, "no second plane", [](bivlm_planes& p) { p.second_signs = nullptr; });
  refused(mixed, kShape, "partition bytes", [](bivlm_planes& p) { p.partition_bytes -= 1; });
  refused(mixed, kShape, "second bytes", [](bivlm_planes& p) { p.second_bytes -= 1; });
  refused(mixed, kWeight, "means", [](bivlm_planes& p) { p.means.dtype = 5; });
  refused(mixed, kWeight, "no means", [](bivlm_planes& p) { p.means.values = nullptr; });
  refused(mixed, kWeight, "no unit", [](bivlm_planes& p) { p.means.unit = nullptr; });
  refused(tailed, kWeight, "a tail with parts", [](bivlm_planes& p) { p.parts = 2; });
  refused(tailed, kWeight, "no steps", [](bivlm_planes& p) { p.tail_steps = nullptr; });
  refused(tailed, kWeight, "no starts", [](bivlm_planes& p) { p.tail_step_start = nullptr; });
  refused(tailed, kWeight, "no bits", [](bivlm_planes& p) { p.tail_bits = nullptr; });
  refused(tailed, kWeight, "no tail scale", [](bivlm_planes& p) { p.tail_scale = nullptr; });
  refused(tailed, kWeight, "no tail zero", [](bivlm_planes& p) { p.tail_zero = nullptr; });
  bivlm_weight other = mixed.w;
  other.scales.dtype = BIVLM_NUMBERS_NONE;
  CHECK(linear(other) == kWeight, "no scales");
  other = mixed.w, other.group_bytes = 10;
  CHECK(linear(other) < 0, "blocks");
  Options levels;
  bivlm_weight of_levels = Weight(levels, 5).w;
  of_levels.planes = &mixed.planes;
  CHECK(linear(of_levels) == kWeight, "levels with planes");
}

// What is no number in the input is none in every result; zeros and tiny numbers do no harm
void test_special_inputs() {
  for (const char* set : instruction_sets()) {
    bivlm_use_instruction_set(set);
    for (int bits = 1; bits <= 4; ++bits) {
      Options o;
      o.bits = bits, o.alphabet = 1 << bits, o.columns = 300, o.group_size = 300;
      const Weight weight(o, 7);
      for (int activations = 0; activations < 2; ++activations) {
        for (const float value : {std::numeric_limits<float>::quiet_NaN(), 0.0f, 1e-44f, 1e-38f}) {
          std::vector<float> x(300, std::isnan(value) ? 1.0f : value), y(5, -1.0f);
          x[137] = value;
          CHECK(
              bivlm_linear(&weight.w, x.data(), 300, 1, 0, y.data(), nullptr, activations, 1) == 0,
              weight.words);
          for (const float result : y)
            CHECK(std::isnan(value) ? std::isnan(result) : std::fabs(result) <= 1e-34f,
                  weight.words);
        }
      }
    }
  }
}

}  // namespace

void test_interface() {
  test_instruction_sets();
  test_layout();
  test_errors();
  test_errors_of_planes();
  test_special_inputs();
}

}  // namespace test
