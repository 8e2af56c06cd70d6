// bivlm_rotate: checks, scratch, and tokens shared among the threads.
#include "call.h"
#include "dispatch.h"

using namespace bivlm;
using namespace bivlm::rotation;

int bivlm_rotate(const void* x, int64_t x_stride, int64_t batch, int x_dtype, int64_t columns,
                 int64_t blocks, const float* signs, float* out, int threads) {
  if (!known_dtype(x_dtype)) return BIVLM_ERROR_DTYPE;
  if (!known_inputs(columns, x, x_stride, batch, out)) return BIVLM_ERROR_SHAPE;
  if (blocks < 1 || columns % blocks) return BIVLM_ERROR_SHAPE;
  if (!batch) return 0;
  const rotation::Kernels& set = *kernels().rotation;
  const int64_t crew = useful_threads(threads, batch, batch * columns * kColumnWork);
  const Bytes bytes = set.bytes(columns / blocks);
  const int64_t shared = round_up(bytes.shared, kAlignment),
                own = round_up(bytes.thread, kAlignment);
  const Scratch scratch(shared + crew * own);
  if (!scratch) return BIVLM_ERROR_MEMORY;
  const Task task{x, x_stride, x_dtype, columns / blocks, signs, scratch.at(0)};
  set.prepare(task);
  share(batch, crew, 1, [&](int64_t thread, int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token)
      rotate_blocks(set, task, blocks, token, out + token * columns,
                    scratch.at(shared + thread * own));
  });
  return 0;
}
