// bivlm_trellis_search: checks, scratch, and strips shared among the threads.
#include "call.h"
#include "dispatch.h"
#include "trellis/weight.h"

namespace bivlm::search {
namespace {

// A factor that can be divided by, and states that are windows
bool usable(const float* u, int64_t columns, const uint32_t* state, int64_t strips, int window) {
  for (int64_t j = 0; j < columns; ++j) {
    if (!(u[j * columns + j] > 0.0f)) return false;
  }
  for (int64_t strip = 0; strip < strips; ++strip) {
    if (state[strip] >> window) return false;
  }
  return true;
}

}  // namespace
}  // namespace bivlm::search

int bivlm_trellis_search(float* w, int64_t rows, int64_t columns, const float* u, int32_t window,
                         int32_t k, const int8_t* table, uint32_t* state, uint8_t* symbols,
                         int threads) {
  using namespace bivlm;
  using namespace bivlm::search;
  using trellis::kStrip;
  if (rows < 0 || columns < 0) return BIVLM_ERROR_SHAPE;
  if ((window != 8 && window != 12 && window != 16) || k < 1 || k > BIVLM_TRELLIS_MOST_BITS)
    return BIVLM_ERROR_WEIGHT;
  if (!rows || !columns) return 0;
  if (!w || !u || !table || !state || !symbols) return BIVLM_ERROR_WEIGHT;
  const int64_t strips = ceil_div(rows, kStrip);
  if (!usable(u, columns, state, strips, window)) return BIVLM_ERROR_WEIGHT;

  const Kernel kernel = kernels().search(window, k);
  const int64_t workers =
      useful_threads(threads, strips, rows * columns * (int64_t(1) << window) >> 4);
  const int64_t tile = columns * kStrip * int64_t(sizeof(float));
  const int64_t levels = round_up(kernel.levels_bytes, kAlignment),
                own = round_up(kernel.scratch_bytes, kAlignment) + round_up(tile, kAlignment);
  Scratch scratch(levels + workers * own);
  if (!scratch) return BIVLM_ERROR_MEMORY;
  kernel.prepare(table, scratch.at(0));
  const Task task{w,     rows,    columns,
                  u,     table,   scratch.at(0),
                  state, symbols, round_up(rows, BIVLM_TRELLIS_ROWS)};
  share(strips, workers, 1, [&](int64_t thread, int64_t begin, int64_t end) {
    uint8_t* mine = scratch.at(levels + thread * own);
    float* buffer = reinterpret_cast<float*>(mine + round_up(kernel.scratch_bytes, kAlignment));
    for (int64_t strip = begin; strip < end; ++strip) kernel.strip(task, strip, buffer, mine);
  });
  return 0;
}
