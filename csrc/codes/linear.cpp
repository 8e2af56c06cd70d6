// bivlm_linear and bivlm_unpack: they check their arguments, allocate the scratch of the call, and
// divide the rows among the threads.
#include "call.h"
#include "codes/weight.h"
#include "dispatch.h"

using namespace bivlm;
using namespace bivlm::codes;

int bivlm_linear(const bivlm_weight* weight, const void* x, int64_t x_stride, int64_t batch,
                 int x_dtype, void* y, const void* bias, int activations, int threads) {
  if (const int error = check(weight)) return error;
  if (!known_dtype(x_dtype)) return BIVLM_ERROR_DTYPE;
  if (batch < 0 || (batch > 1 && x_stride < 0) || (batch && weight->rows && (!x || !y)))
    return BIVLM_ERROR_SHAPE;
  if (!batch || !weight->rows) return 0;
  const codes::Kernels& set = *kernels().codes;
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
  const codes::Kernels& set = *kernels().codes;
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
