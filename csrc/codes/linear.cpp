// bivlm_linear, bivlm_linear_many and bivlm_unpack: they check their arguments, allocate the
// scratch of the call, and divide the rows among the threads.
#include "call.h"
#include "codes/weight.h"
#include "dispatch.h"

namespace bivlm::codes {
namespace {

constexpr int64_t kPieceRows = 64;  // that a thread takes at a time from several products

struct Job {
  Task task;
  int64_t like = 0;  // the first product that has its inputs prepared in the same way
  int64_t room = 0;  // of the inputs, in the scratch
};

int check(const bivlm_product& product) {
  const bivlm_weight* weight = static_cast<const bivlm_weight*>(product.weight);
  if (const int error = check(weight)) return error;
  const int64_t batch = product.batch;
  return batch < 0 || (batch > 1 && product.x_stride < 0) ||
                 (batch && weight->rows && (!product.x || !product.y))
             ? BIVLM_ERROR_SHAPE
             : 0;
}

// Whether two weights want the same x in the same form
bool same_form(const Task& a, const Task& b) {
  const bivlm_weight &v = *a.weight, &w = *b.weight;
  const Plan &p = a.plan, &q = b.plan;
  const uint16_t *first = v.planes ? v.planes->column_scales : nullptr,
                 *second = w.planes ? w.planes->column_scales : nullptr;
  return v.columns == w.columns && first == second && p.terms == q.terms && v.bits == w.bits &&
         v.group_size == w.group_size && v.column_scale == w.column_scale && p.path == q.path &&
         p.whole == q.whole && p.steady == q.steady && p.slices == q.slices &&
         p.lane_columns == q.lane_columns && p.block_columns == q.block_columns &&
         p.blocks == q.blocks && p.tokens == q.tokens && p.plain_stride == q.plain_stride;
}

// The same inputs for another weight
Task with_weight(Task task, const Task& own) {
  task.weight = own.weight, task.plan = own.plan, task.y = own.y, task.bias = own.bias;
  return task;
}

// One call: the products that have any numbers. `add` all, then `run`.
class Call {
 public:
  explicit Call(int64_t products) : jobs_(products) {}
  explicit operator bool() const { return bool(jobs_); }

  void add(const bivlm_product& product, int dtype, int activations) {
    const auto& weight = *static_cast<const bivlm_weight*>(product.weight);
    Job& job = jobs_[count_];
    Task& task = job.task;
    task.weight = &weight;
    task.plan = set_.plan(weight, product.batch, activations);
    task.x = product.x, task.x_stride = product.x_stride, task.batch = product.batch;
    task.dtype = dtype, task.y = product.y, task.bias = product.bias;
    while (job.like < count_ &&
           !(same_inputs(task, jobs_[job.like].task) && same_form(task, jobs_[job.like].task)))
      ++job.like;
    if (job.like == count_) {
      job.room = rooms_.take(task.plan.shared_bytes);
      inputs_ += weight.columns * product.batch;
    }
    own_ = larger(own_, round_up(task.plan.thread_bytes, kAlignment));
    rows_ += weight.rows, work_ += weight.rows * weight.columns * product.batch;
    ++count_;
  }

  int run(int threads) {
    if (!count_) return 0;
    const int64_t crew = useful_threads(threads, rows_, work_);
    const Scratch scratch(rooms_.total + own_ * crew);
    const auto size = [&](int64_t i) { return jobs_[i].task.weight->rows; };
    const Pieces<decltype(size)> pieces(count_, most(crew), size);
    if (!scratch || !pieces) return BIVLM_ERROR_MEMORY;
    deal(count_, useful_threads(threads, count_, inputs_), [&](int64_t, int64_t i) {
      jobs_[i].task.scratch = scratch.at(jobs_[i].room);
      if (jobs_[i].like == i) set_.prepare(jobs_[i].task);
    });
    for (int64_t i = 0; i < count_; ++i)
      jobs_[i].task = with_weight(jobs_[jobs_[i].like].task, jobs_[i].task);
    deal(pieces.count(), crew, [&](int64_t thread, int64_t i) {
      set_.rows(jobs_[pieces[i].product].task, pieces[i].begin, pieces[i].end,
                scratch.at(rooms_.total + thread * own_));
    });
    return 0;
  }

 private:
  // How many rows a thread takes at a time: an equal share of a single product
  int64_t most(int64_t crew) const {
    return crew == 1 ? rows_ : count_ == 1 ? round_up(ceil_div(rows_, crew), 4) : kPieceRows;
  }

  const codes::Kernels& set_ = *kernels().codes;
  const Array<Job> jobs_;
  int64_t count_ = 0, rows_ = 0, work_ = 0, inputs_ = 0, own_ = 0;
  Rooms rooms_;
};

}  // namespace
}  // namespace bivlm::codes

using namespace bivlm;
using namespace bivlm::codes;

int bivlm_linear_many(const bivlm_product* products, int64_t count, int x_dtype, int activations,
                      int threads) {
  if (const int error = check_products(products, count, x_dtype)) return error;
  for (int64_t i = 0; i < count; ++i) {
    if (const int error = check(products[i])) return error;
  }
  Call call(count);
  if (!call) return BIVLM_ERROR_MEMORY;
  for (int64_t i = 0; i < count; ++i) {
    const auto* weight = static_cast<const bivlm_weight*>(products[i].weight);
    if (products[i].batch && weight->rows) call.add(products[i], x_dtype, activations);
  }
  return call.run(threads);
}

int bivlm_linear(const bivlm_weight* weight, const void* x, int64_t x_stride, int64_t batch,
                 int x_dtype, void* y, const void* bias, int activations, int threads) {
  const bivlm_product product = {weight, x, x_stride, batch, y, bias};
  return bivlm_linear_many(&product, 1, x_dtype, activations, threads);
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
    set.unpack(*weight, begin + first, begin + last, static_cast<uint8_t*>(out) + first * step,
               dtype, scratch.at(thread * own));
  });
  return 0;
}
