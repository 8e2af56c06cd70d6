// bivlm_trellis_linear and bivlm_trellis_unpack: they check their arguments, allocate the scratch
// of the call, and divide tokens and strips among the threads.
#include "call.h"
#include "dispatch.h"
#include "trellis/weight.h"

namespace bivlm::trellis {
namespace {

int check_streams(const bivlm_trellis& w) {
  for (int64_t run = 0; run < runs_of(w); ++run) {
    if (w.bits[run] > BIVLM_TRELLIS_MOST_BITS) return BIVLM_ERROR_WEIGHT;
  }
  if (!w.rows) return 0;
  const int64_t bits = row_bits(w), last = strips_of(w) - 1;
  return w.code_bytes < last * strip_bytes(bits, kStrip) + strip_bytes(bits, held_rows(w, last))
             ? BIVLM_ERROR_SHAPE
             : 0;
}

int check(const bivlm_trellis* weight) {
  if (!weight) return BIVLM_ERROR_WEIGHT;
  const bivlm_trellis& w = *weight;
  if (w.rows < 0 || w.columns < 1 || w.code_bytes < 0) return BIVLM_ERROR_SHAPE;
  if (w.window != 8 && w.window != 12 && w.window != 16) return BIVLM_ERROR_WEIGHT;
  if (w.table_stride && w.table_stride != int64_t(1) << w.window) return BIVLM_ERROR_WEIGHT;
  if (w.signs && (w.blocks < 1 || w.columns % w.blocks)) return BIVLM_ERROR_SHAPE;
  if (!w.bits || !w.table || (w.rows && (!w.codes || !w.row_scale))) return BIVLM_ERROR_WEIGHT;
  return check_streams(w);
}

int64_t run_bytes(const bivlm_trellis& w) {
  return round_up(runs_of(w) * int64_t(sizeof(Run)), kAlignment);
}

// The runs that have bits, into `place`
void set_runs(Task& task, uint8_t* place) {
  const bivlm_trellis& w = *task.weight;
  Run* runs = reinterpret_cast<Run*>(place);
  int64_t before = 0;
  for (int64_t run = 0; run < runs_of(w); ++run) {
    const int bits = w.bits[run];
    if (bits) runs[task.run_count++] = {run * kRun, run_columns(w, run), before, bits};
    before += bits * run_columns(w, run);
  }
  task.runs = runs;
  task.strip_bytes = strip_bytes(before, kStrip);
}

// Room in a piece of scratch: each call gives the offset of another `bytes`
struct Rooms {
  int64_t total = 0;
  int64_t take(int64_t bytes) {
    const int64_t offset = total;
    total += round_up(bytes, kAlignment);
    return offset;
  }
};

void plain_token(const Task& task, int64_t token, float* out) {
  for (int64_t j = 0; j < task.weight->columns; ++j)
    out[j] = load_as(task.x, token * task.x_stride + j, task.dtype);
}

int multiply(Task& task, int threads) {
  const bivlm_trellis& w = *task.weight;
  const Kernels& set = *kernels().trellis;
  const rotation::Kernels& rotation = *kernels().rotation;
  const int64_t tokens_crew = useful_threads(threads, task.batch,
                                             task.batch * w.columns * rotation::kColumnWork),
                strips = strips_of(w);
  const int64_t crew = useful_threads(threads, strips, w.rows * w.columns * task.batch);
  Rooms rooms;
  const int64_t runs = rooms.take(run_bytes(w));
  const Scratch first(rooms.total);
  if (!first) return BIVLM_ERROR_MEMORY;
  set_runs(task, first.at(runs));

  const Bytes turning = w.signs ? rotation.bytes(w.columns / w.blocks) : Bytes{0, 0},
              linear = set.linear_bytes(task);
  rooms = {};
  const int64_t shared = rooms.take(linear.shared), transform = rooms.take(turning.shared);
  const int64_t step = round_up(w.columns * int64_t(sizeof(float)), kAlignment) +
                       round_up(turning.thread, kAlignment);
  const int64_t token_rooms = rooms.take(tokens_crew * step),
                own = round_up(linear.thread, kAlignment), strip_rooms = rooms.take(crew * own);
  const Scratch scratch(rooms.total);
  if (!scratch) return BIVLM_ERROR_MEMORY;

  task.shared = scratch.at(shared);
  set.prepare_weight(task);
  const rotation::Task turn{task.x,     task.x_stride,
                            task.dtype, w.signs ? w.columns / w.blocks : 0,
                            w.signs,    scratch.at(transform)};
  if (w.signs) rotation.prepare(turn);
  share(task.batch, tokens_crew, 1, [&](int64_t thread, int64_t begin, int64_t end) {
    float* x = reinterpret_cast<float*>(scratch.at(token_rooms + thread * step));
    uint8_t* rest =
        scratch.at(token_rooms + (thread + 1) * step - round_up(turning.thread, kAlignment));
    for (int64_t token = begin; token < end; ++token) {
      w.signs ? rotation::rotate_blocks(rotation, turn, w.blocks, token, x, rest)
              : plain_token(task, token, x);
      set.prepare_token(task, token, x);
    }
  });
  share(strips, crew, 1, [&](int64_t thread, int64_t begin, int64_t end) {
    for (int64_t strip = begin; strip < end; ++strip)
      set.multiply(task, strip, scratch.at(strip_rooms + thread * own));
  });
  return 0;
}

}  // namespace
}  // namespace bivlm::trellis

using namespace bivlm;
using namespace bivlm::trellis;

int bivlm_trellis_linear(const bivlm_trellis* weight, const void* x, int64_t x_stride,
                         int64_t batch, int x_dtype, void* y, const void* bias, int activations,
                         int threads) {
  if (const int error = check(weight)) return error;
  if (!known_dtype(x_dtype)) return BIVLM_ERROR_DTYPE;
  if (batch < 0 || (weight->rows && !known_inputs(weight->columns, x, x_stride, batch, y)))
    return BIVLM_ERROR_SHAPE;
  if (!batch || !weight->rows) return 0;
  Task task;
  task.weight = weight;
  task.x = x, task.x_stride = x_stride, task.batch = batch, task.dtype = x_dtype, task.y = y,
  task.bias = bias;
  task.rounded = activations == 1;
  return multiply(task, threads);
}

int bivlm_trellis_unpack(const bivlm_trellis* weight, int64_t begin, int64_t end, void* out,
                         int dtype, int threads) {
  if (const int error = check(weight)) return error;
  if (!known_dtype(dtype)) return BIVLM_ERROR_DTYPE;
  if (begin < 0 || begin > end || end > weight->rows || (begin < end && !out))
    return BIVLM_ERROR_SHAPE;
  if (begin == end) return 0;
  const trellis::Kernels& set = *kernels().trellis;
  Task task;
  task.weight = weight;
  const Scratch runs(run_bytes(*weight));
  if (!runs) return BIVLM_ERROR_MEMORY;
  set_runs(task, runs.at(0));
  const int64_t first = begin / kStrip, strips = ceil_div(end, kStrip) - first;
  const int64_t crew = useful_threads(threads, strips, strips * kStrip * weight->columns);
  const Bytes bytes = set.unpack_bytes(task);
  const int64_t shared = round_up(bytes.shared, kAlignment),
                own = round_up(bytes.thread, kAlignment);
  const Scratch scratch(shared + crew * own);
  if (!scratch) return BIVLM_ERROR_MEMORY;
  task.shared = scratch.at(0);
  set.prepare_weight(task);
  const int64_t row_size = weight->columns * element_bytes(dtype);
  share(strips, crew, 1, [&](int64_t thread, int64_t from, int64_t to) {
    for (int64_t strip = first + from; strip < first + to; ++strip) {
      const int64_t top = larger(begin, strip * kStrip),
                    bottom = smaller(end, (strip + 1) * kStrip);
      uint8_t* place = static_cast<uint8_t*>(out) + (top - begin) * row_size;
      set.unpack(task, strip, top, bottom, place, dtype, scratch.at(shared + thread * own));
    }
  });
  return 0;
}
