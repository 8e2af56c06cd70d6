// The two functions of the interface: they check what they are given, allocate the scratch of the
// call, and share the rows among the threads.
#include "call.h"
#include "kernel_set.h"
#include "weight.h"

namespace bivlm {
namespace {

bool known_numbers(const bivlm_numbers& numbers) {
  if (numbers.dtype < 0 || numbers.dtype > 4) return false;
  return (numbers.dtype == 0 || numbers.values) && (numbers.dtype < 3 || numbers.unit);
}

int check_kind(const bivlm_weight& w) {
  switch (w.kind) {
    case BIVLM_KIND_LEVELS:
      if (w.bits > 4 || !w.levels || (w.table_rows != 1 && w.table_rows != w.rows))
        return BIVLM_ERROR_WEIGHT;
      if (w.alphabet < 2 || w.alphabet > 1 << w.bits || (w.symmetric && w.alphabet % 2))
        return BIVLM_ERROR_WEIGHT;
      if (w.tail_start && (!w.tail_levels || !w.tail_scale ||
                           (!w.tail_entries && load<int64_t>(w.tail_start, w.rows) > 0)))
        return BIVLM_ERROR_WEIGHT;
      return w.group_bytes || w.column_scale ? BIVLM_ERROR_WEIGHT : 0;
    case BIVLM_KIND_UNIFORM:
      if (w.alphabet < 2 || w.alphabet > 1 << w.bits || !known_numbers(w.scales))
        return BIVLM_ERROR_WEIGHT;
      if (w.zero_kind < 0 || w.zero_kind > 2 || (w.zero_kind && !w.zeros))
        return BIVLM_ERROR_WEIGHT;
      return w.group_bytes || w.tail_start ? BIVLM_ERROR_WEIGHT : 0;
    case BIVLM_KIND_PLANE:
      if (w.bits != 1 || w.tail_start || w.column_scale) return BIVLM_ERROR_WEIGHT;
      if (!w.group_bytes) return known_numbers(w.scales) ? 0 : BIVLM_ERROR_WEIGHT;
      return w.group_size % 8 || w.columns % w.group_size || w.group_bytes < 2 + w.group_size / 8
                 ? BIVLM_ERROR_SHAPE
                 : 0;
    default:
      return BIVLM_ERROR_WEIGHT;
  }
}

int check(const bivlm_weight* weight) {
  if (!weight || weight->bits < 1 || weight->bits > 8) return BIVLM_ERROR_WEIGHT;
  const bivlm_weight& w = *weight;
  if (w.rows < 0 || w.columns < 1 || w.group_size < 1 ||
      w.groups != ceil_div(w.columns, w.group_size))
    return BIVLM_ERROR_SHAPE;
  const int64_t needed = w.group_bytes ? w.groups * w.group_bytes : ceil_div(w.columns * w.bits, 8);
  if (w.row_bytes < needed) return BIVLM_ERROR_SHAPE;
  return w.rows && !w.codes ? BIVLM_ERROR_WEIGHT : check_kind(w);
}

}  // namespace
}  // namespace bivlm

using namespace bivlm;

int bivlm_linear(const bivlm_weight* weight, const void* x, int64_t x_stride, int64_t batch,
                 int x_dtype, void* y, const void* bias, int activations, int threads) {
  if (const int error = check(weight)) return error;
  if (!known_dtype(x_dtype)) return BIVLM_ERROR_DTYPE;
  if (batch < 0 || (batch > 1 && x_stride < 0) || (batch && weight->rows && (!x || !y)))
    return BIVLM_ERROR_SHAPE;
  if (!batch || !weight->rows) return 0;
  const KernelSet& set = kernels();
  Task task;
  task.weight = weight;
  task.plan = set.plan(*weight, batch, activations);
  task.x = x, task.x_stride = x_stride, task.batch = batch, task.dtype = x_dtype, task.y = y,
  task.bias = bias;
  const int64_t crew =
      useful_threads(threads, weight->rows, weight->rows * weight->columns * batch);
  const int64_t shared = round_up(task.plan.shared_bytes, kAlignment),
                own = round_up(task.plan.thread_bytes, kAlignment);
  const Scratch scratch(shared + own * crew);
  if (!scratch) return BIVLM_ERROR_MEMORY;
  task.scratch = scratch.at(0);
  set.prepare(task);
  share(weight->rows, crew, 4, [&](int64_t thread, int64_t begin, int64_t end) {
    set.rows(task, begin, end, scratch.at(shared + thread * own));
  });
  return 0;
}

int bivlm_unpack(const bivlm_weight* weight, int64_t begin, int64_t end, void* out, int dtype,
                 int threads) {
  if (const int error = check(weight)) return error;
  if (!known_dtype(dtype)) return BIVLM_ERROR_DTYPE;
  if (begin < 0 || begin > end || end > weight->rows || (begin < end && !out))
    return BIVLM_ERROR_SHAPE;
  if (begin == end) return 0;
  const KernelSet& set = kernels();
  const int64_t rows = end - begin, crew = useful_threads(threads, rows, rows * weight->columns);
  const int64_t own = round_up(set.unpack_scratch(*weight), kAlignment),
                step = weight->columns * element_bytes(dtype);
  const Scratch scratch(own * crew);
  if (!scratch) return BIVLM_ERROR_MEMORY;
  share(rows, crew, 4, [&](int64_t thread, int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i)
      set.unpack(*weight, begin + i, static_cast<uint8_t*>(out) + i * step, dtype,
                 scratch.at(thread * own));
  });
  return 0;
}
