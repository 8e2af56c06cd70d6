// The search of the trellis: streams that decode to the values, paths that no other undercuts,
// errors fed on as a plain loop does, the same bits with every instruction set and number of
// threads.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>

#include "buffers.h"
#include "check.h"
#include "tests.h"

namespace test {
namespace {

constexpr float kScale = 20.0f;  // targets lie well inside the tables: there costs fit the 16 bits
                                 // of the search, and paths are the best of all

struct Problem {
  int64_t rows, columns;
  int window, k;
  std::vector<float> w, u;
  std::vector<int8_t> table;
  std::vector<uint32_t> state;

  Problem(int64_t rows_, int64_t columns_, int window_, int k_, float scale, Random& random)
      : rows(rows_),
        columns(columns_),
        window(window_),
        k(k_),
        u(size_t(columns_ * columns_), 0.0f) {
    for (int64_t i = 0; i < rows * columns; ++i) w.push_back(scale * random.normal());
    for (int64_t j = 0; j < columns; ++j) {
      u[size_t(j * columns + j)] = 0.5f + random.unit();
      for (int64_t c = j + 1; c < columns; ++c) u[size_t(j * columns + c)] = 0.3f * random.normal();
    }
    for (int i = 0; i < 1 << window; ++i)
      table.push_back(int8_t(std::fmin(std::fmax(30.0f * random.normal(), -128.0f), 127.0f)));
    for (int64_t first = 0; first < rows; first += 64)
      state.push_back(uint32_t(random.below(1 << window)));
  }

  int64_t held() const { return (rows + 15) / 16 * 16; }
  std::string words() const {
    return "search " + std::to_string(rows) + " x " + std::to_string(columns) + ", window " +
           std::to_string(window) + ", " + std::to_string(k) + " bits, " + bivlm_instruction_set();
  }
};

struct Found {
  int code;
  std::vector<float> w;
  std::vector<uint32_t> state;
  std::vector<uint8_t> symbols;
};

Found search(const Problem& p, int threads = 1) {
  Found f{0, p.w, p.state, std::vector<uint8_t>(size_t(p.held() * p.columns), 0xff)};
  f.code = bivlm_trellis_search(f.w.data(), p.rows, p.columns, p.u.data(), p.window, p.k,
                                p.table.data(), f.state.data(), f.symbols.data(), threads);
  return f;
}

bool same(const Found& one, const Found& other) {
  return one.code == other.code && one.w == other.w && one.state == other.state &&
         one.symbols == other.symbols;
}

int64_t held_of(const Problem& p, size_t strip) {
  return std::min<int64_t>(64, p.held() - 64 * int64_t(strip));
}

// state <- state / 2^K + symbol * 2^(L - K), value = table[state]
void decodes(const Problem& p, const Found& f) {
  bool in_range = true, values = true;
  for (size_t strip = 0; strip < p.state.size(); ++strip) {
    uint32_t state = p.state[strip];
    for (int64_t j = 0; j < p.columns; ++j) {
      for (int64_t r = 64 * int64_t(strip); r < 64 * int64_t(strip) + held_of(p, strip); ++r) {
        const uint8_t symbol = f.symbols[size_t(j * p.held() + r)];
        in_range = in_range && symbol < 1 << p.k;
        state = state >> p.k | uint32_t(symbol) << (p.window - p.k);
        values = values && (r >= p.rows || f.w[size_t(j * p.rows + r)] == float(p.table[state]));
      }
    }
    CHECK(state == f.state[strip], p.words());
  }
  CHECK(in_range, p.words());
  CHECK(values, p.words());
}

int steps_in_unit(int k) { return k < 3 ? 1 : 2; }

int rounded(float target, int k) {
  return int(std::lround(std::fmin(std::fmax(target, -127.0f), 127.0f) * float(steps_in_unit(k))));
}

int64_t distance(const Problem& p, int target, uint32_t state) {
  const int64_t difference = std::min(std::abs(target - p.table[state] * steps_in_unit(p.k)), 181);
  return difference * difference;
}

// The least cost of any path through `targets` from `start`, in wide integers over all states
int64_t least_cost(const Problem& p, const std::vector<int>& targets, uint32_t start) {
  constexpr int64_t kNever = std::numeric_limits<int64_t>::max() / 2;
  const uint32_t states = 1u << p.window;
  std::vector<int64_t> cost(states, kNever), next(states);
  cost[start] = 0;
  for (const int target : targets) {
    for (uint32_t state = 0; state < states; ++state) {
      const uint32_t before = (state << p.k) & (states - 1);
      int64_t least = kNever;
      for (uint32_t a = 0; a < 1u << p.k; ++a) least = std::min(least, cost[before | a]);
      next[state] = least == kNever ? kNever : least + distance(p, target, state);
    }
    cost.swap(next);
  }
  return *std::min_element(cost.begin(), cost.end());
}

// Column after column of one strip: the path is one of the best, and its error goes to the columns
// to the right
void is_best(const Problem& p, const Found& f, size_t strip) {
  const int64_t first = 64 * int64_t(strip), held = held_of(p, strip);
  std::vector<float> rest = p.w;
  uint32_t state = p.state[strip];
  for (int64_t j = 0; j < p.columns; ++j) {
    std::vector<int> targets, ahead;
    for (int64_t r = first; r < first + held; ++r)
      targets.push_back(r < p.rows ? rounded(rest[size_t(j * p.rows + r)], p.k) : 0);
    for (int64_t r = first; r < first + 16 && j + 1 < p.columns; ++r) {
      ahead.push_back(r < p.rows ? rounded(rest[size_t((j + 1) * p.rows + r)], p.k) : 0);
    }
    std::vector<int> all = targets;
    all.insert(all.end(), ahead.begin(), ahead.end());
    const int64_t least = least_cost(p, all, state);
    int64_t cost = 0;
    for (int64_t r = first; r < first + held; ++r) {
      state = state >> p.k | uint32_t(f.symbols[size_t(j * p.held() + r)]) << (p.window - p.k);
      cost += distance(p, targets[size_t(r - first)], state);
    }
    CHECK(cost + least_cost(p, ahead, state) == least,
          p.words() + ", strip " + std::to_string(strip) + ", column " + std::to_string(j));
    for (int64_t r = first; r < std::min(first + held, p.rows); ++r) {
      const float error = (rest[size_t(j * p.rows + r)] - f.w[size_t(j * p.rows + r)]) /
                          p.u[size_t(j * p.columns + j)];
      for (int64_t c = j + 1; c < p.columns; ++c)
        rest[size_t(c * p.rows + r)] -= p.u[size_t(j * p.columns + c)] * error;
    }
  }
}

// Every instruction set and some numbers of threads: the first of them is looked at closely, the
// others must be the same
Found agree(const Problem& p) {
  bivlm_use_instruction_set("portable");
  Found first = search(p);
  CHECK(first.code == 0, p.words());
  decodes(p, first);
  for (const char* set : instruction_sets()) {
    bivlm_use_instruction_set(set);
    for (int threads = 1; threads <= 4; ++threads)
      CHECK(same(search(p, threads), first), p.words() + ", threads " + std::to_string(threads));
  }
  return first;
}

void test_shapes() {
  Random random(21);
  int turn = 0;
  for (const int window : {8, 12}) {
    for (int k = 1; k <= 4; ++k) {
      for (const int64_t rows : {1, 15, 16, 17, 48, 63, 64, 65, 130}) {
        const Problem p(rows, 1 + ++turn % 4, window, k, kScale, random);
        const Found found = agree(p);
        is_best(p, found, p.state.size() - 1);
        if (turn % 4 == 0) is_best(p, found, 0);
      }
    }
  }
  for (int k = 1; k <= 4; ++k) {
    const Problem p(17 + 32 * k, 2, 16, k, kScale, random);
    is_best(p, agree(p), 0);
  }
}

void test_columns() {
  Random random(26);
  for (int columns = 1; columns <= 20; ++columns) {
    const Problem p(33, columns, 8, 1 + columns % 4, kScale, random);
    is_best(p, agree(p), 0);
  }
}

double squared(float target, int8_t level) {
  return (double(target) - level) * (double(target) - level);
}

double squared_error(const Problem& p, const Found& f) {
  double sum = 0.0;
  for (size_t i = 0; i < p.w.size(); ++i)
    sum += (double(p.w[i]) - f.w[i]) * (double(p.w[i]) - f.w[i]);
  return sum;
}

// All 2^16 paths of a strip of 16 weights of one bit, their errors in double and without a bound
void test_every_path() {
  Random random(27);
  for (int turn = 0; turn < 4; ++turn) {
    const Problem p(16, 1, 8, 1, kScale, random);
    double least = std::numeric_limits<double>::infinity();
    for (uint32_t symbols = 0; symbols < 1u << 16; ++symbols) {
      uint32_t state = p.state[0];
      double sum = 0.0;
      for (int r = 0; r < 16; ++r) {
        state = state >> 1 | (symbols >> r & 1) << 7;
        sum += squared(p.w[size_t(r)], p.table[state]);
      }
      least = std::min(least, sum);
    }
    const double found = squared_error(p, agree(p));
    CHECK(found >= least * (1 - 1e-9) && found <= least * 1.01,
          p.words() + ", " + std::to_string(found) + " for " + std::to_string(least));
  }
}

// The least error of a strip of one column: the search in double, of targets that are not rounded,
// with differences that have no bound
double least_error(const Problem& p, size_t strip) {
  const uint32_t states = 1u << p.window;
  std::vector<double> cost(states, std::numeric_limits<double>::infinity()), next(states);
  cost[p.state[strip]] = 0.0;
  for (size_t r = 64 * strip; r < 64 * (strip + 1); ++r) {
    for (uint32_t state = 0; state < states; ++state) {
      const double* before = &cost[(state << p.k) & (states - 1)];
      next[state] =
          *std::min_element(before, before + (1 << p.k)) + squared(p.w[r], p.table[state]);
    }
    cost.swap(next);
  }
  return *std::min_element(cost.begin(), cost.end());
}

// What integers cost: less than 0.5 % of the error, with 4 bits, where levels lie closest, less
// than 1 %
void test_error() {
  Random random(28);
  for (const int window : {8, 12}) {
    for (int k = 1; k <= 4; ++k) {
      const Problem p(window == 8 ? 64 * 60 : 64 * 6, 1, window, k, 30.0f, random);
      double least = 0.0;
      for (size_t strip = 0; strip < p.state.size(); ++strip) least += least_error(p, strip);
      const double found = squared_error(p, agree(p)), most = (k < 4 ? 1.005 : 1.01) * least;
      CHECK(found >= least * (1 - 1e-9) && found < most,
            p.words() + ", " + std::to_string(found) + " for " + std::to_string(least));
    }
  }
}

// Enough strips that every thread has some
void test_threads() {
  Random random(22);
  const Problem p(1111, 20, 8, 2, kScale, random);
  const Found found = agree(p);
  for (const size_t strip : {0, 8, 17}) is_best(p, found, strip);
}

// Targets far outside of the table, and what is no number: paths that are valid and the same
// everywhere
void test_outliers() {
  Random random(23);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const int window : {8, 12}) {
    for (int k = 1; k <= 4; ++k) {
      for (const float scale : {0.0f, 1e-30f, 90.0f, 1e4f, 1e30f})
        agree(Problem(70, 3, window, k, scale, random));
      Problem p(80, 3, window, k, 30.0f, random);
      p.w[5] = 1e9f, p.w[100] = -1e9f, p.w[170] = kInfinity, p.w[239] = -kInfinity,
      p.w[40] = std::numeric_limits<float>::quiet_NaN();
      agree(p);
    }
  }
}

// A value that every path can take is taken: the targets of a known path come back with no error
void test_exact() {
  Random random(24);
  for (int k = 1; k <= 4; ++k) {
    Problem p(64, 3, 8, k, 30.0f, random);
    std::vector<float> wanted;
    uint32_t state = p.state[0];
    for (float& target : p.w) {
      state = state >> k | uint32_t(random.below(1 << k)) << (8 - k);
      while (p.table[state] == -128)
        p.table[state] = int8_t(random.below(256) - 128);  // a target is at most 127
      target = 0.0f;
      wanted.push_back(float(state));
    }
    for (size_t i = 0; i < wanted.size(); ++i)
      p.w[i] = wanted[i] = float(p.table[size_t(wanted[i])]);
    CHECK(agree(p).w == wanted, p.words());
  }
}

void test_refused() {
  Random random(25);
  const Problem good(20, 3, 8, 2, 30.0f, random);
  const auto with = [&](auto change) {
    Problem p = good;
    change(p);
    return search(p).code;
  };
  constexpr float kNone = std::numeric_limits<float>::quiet_NaN();
  CHECK(with([](Problem&) {}) == 0, "good");
  CHECK(with([](Problem& p) { p.window = 9; }) == BIVLM_ERROR_WEIGHT, "window");
  CHECK(with([](Problem& p) { p.k = 0; }) == BIVLM_ERROR_WEIGHT, "no bits");
  CHECK(with([](Problem& p) { p.k = 5; }) == BIVLM_ERROR_WEIGHT, "five bits");
  CHECK(with([](Problem& p) { p.state[0] = 256; }) == BIVLM_ERROR_WEIGHT, "state");
  for (const float pivot : {0.0f, -1.0f, kNone})
    CHECK(with([&](Problem& p) { p.u[4] = pivot; }) == BIVLM_ERROR_WEIGHT, "pivot");

  Problem p = good;
  std::vector<uint8_t> symbols(96, 7);
  const auto call = [&](bool w, bool u, bool table, bool state, bool out, int64_t rows,
                        int64_t columns) {
    return bivlm_trellis_search(w ? p.w.data() : nullptr, rows, columns, u ? p.u.data() : nullptr,
                                8, 2, table ? p.table.data() : nullptr,
                                state ? p.state.data() : nullptr, out ? symbols.data() : nullptr,
                                1);
  };
  CHECK(call(false, true, true, true, true, 20, 3) == BIVLM_ERROR_WEIGHT, "no targets");
  CHECK(call(true, false, true, true, true, 20, 3) == BIVLM_ERROR_WEIGHT, "no factor");
  CHECK(call(true, true, false, true, true, 20, 3) == BIVLM_ERROR_WEIGHT, "no table");
  CHECK(call(true, true, true, false, true, 20, 3) == BIVLM_ERROR_WEIGHT, "no states");
  CHECK(call(true, true, true, true, false, 20, 3) == BIVLM_ERROR_WEIGHT, "no symbols");
  CHECK(call(true, true, true, true, true, -1, 3) == BIVLM_ERROR_SHAPE, "rows");
  CHECK(call(true, true, true, true, true, 20, -1) == BIVLM_ERROR_SHAPE, "columns");
  CHECK(call(false, false, false, false, false, 0, 3) == 0, "nothing to do");
  CHECK(call(false, false, false, false, false, 20, 0) == 0, "nothing to do");
  CHECK(p.w == good.w && p.state == good.state && symbols == std::vector<uint8_t>(96, 7),
        "what is refused is left alone");
}

}  // namespace

void test_trellis_search() {
  test_refused();
  test_exact();
  test_shapes();
  test_columns();
  test_every_path();
  test_error();
  test_threads();
  test_outliers();
}

}  // namespace test
