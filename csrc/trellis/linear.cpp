// bivlm_trellis_linear, bivlm_trellis_linear_many and bivlm_trellis_unpack: they check their
// arguments, allocate the scratch of the call, and divide tokens and strips among the threads.
#include <cstring>

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

void plain_token(const Task& task, int64_t token, float* out) {
  for (int64_t j = 0; j < task.weight->columns; ++j)
    out[j] = load_as(task.x, token * task.x_stride + j, task.dtype);
}

constexpr int64_t kPieceTokens = 4;  // that a thread prepares at a time of several products

// What a product may have in common with an earlier one is named by the number of the first that
// has it, its own number if none does.
struct Job {
  Task task;
  int64_t tables = 0, inputs = 0, turning = 0;
  int64_t runs_room = 0, tables_room = 0, inputs_room = 0, turning_room = 0;
  int64_t block() const {
    return task.weight->signs ? task.weight->columns / task.weight->blocks : 0;
  }
};

bool same_bytes(const void* a, const void* b, int64_t bytes) {
  return a == b || (a && b && !std::memcmp(a, b, size_t(bytes)));
}

// The same levels for the same numbers of bits
bool same_tables(const Task& a, const Task& b) {
  const bivlm_trellis &v = *a.weight, &w = *b.weight;
  const int64_t size = (int64_t(1) << w.window) + (BIVLM_TRELLIS_MOST_BITS - 1) * w.table_stride;
  return v.window == w.window && v.table_stride == w.table_stride && v.columns == w.columns &&
         same_bytes(v.bits, w.bits, runs_of(w)) && same_bytes(v.table, w.table, size);
}

// The same x, turned in the same way, of which the same columns count
bool same_inputs(const Task& a, const Task& b) {
  const bivlm_trellis &v = *a.weight, &w = *b.weight;
  if (!bivlm::same_inputs(a, b) || v.columns != w.columns || a.run_count != b.run_count ||
      (w.signs && v.blocks != w.blocks) ||
      !same_bytes(v.signs, w.signs, w.columns * int64_t(sizeof(float))))
    return false;
  for (int64_t i = 0; i < a.run_count; ++i) {
    if (a.runs[i].column != b.runs[i].column) return false;
  }
  return true;
}

// One call: the products that have any numbers. `add` all, then `run`.
class Call {
 public:
  explicit Call(int64_t products) : jobs_(products) {}
  explicit operator bool() const { return bool(jobs_); }

  void add(const bivlm_product& product, int dtype, int activations) {
    const auto& weight = *static_cast<const bivlm_trellis*>(product.weight);
    Job& job = jobs_[count_++];
    Task& task = job.task;
    task.weight = &weight;
    task.x = product.x, task.x_stride = product.x_stride, task.batch = product.batch;
    task.dtype = dtype, task.y = product.y, task.bias = product.bias;
    task.rounded = activations == 1;
    job.runs_room = run_rooms_.take(run_bytes(weight));
    strips_ += strips_of(weight), work_ += weight.rows * weight.columns * product.batch;
  }

  int run(int threads) {
    if (!count_) return 0;
    const Scratch runs(run_rooms_.total);
    if (!runs) return BIVLM_ERROR_MEMORY;
    for (int64_t i = 0; i < count_; ++i) set_runs(jobs_[i].task, runs.at(jobs_[i].runs_room));
    for (int64_t i = 0; i < count_; ++i) place(i);
    const int64_t crew = useful_threads(threads, strips_, work_),
                  inputs_crew = useful_threads(threads, tokens_, inputs_ * rotation::kColumnWork);
    const int64_t spare = rooms_.total, step = larger(own_, own_inputs_);
    const Scratch scratch(spare + larger(crew, inputs_crew) * step);
    if (!scratch) return BIVLM_ERROR_MEMORY;
    prepare(scratch);
    const auto tokens = [&](int64_t i) { return jobs_[i].inputs == i ? jobs_[i].task.batch : 0; };
    const auto strips = [&](int64_t i) { return strips_of(*jobs_[i].task.weight); };
    const Pieces<decltype(tokens)> inputs(count_, most(tokens_, inputs_crew, kPieceTokens), tokens);
    const Pieces<decltype(strips)> outputs(count_, most(strips_, crew, 1), strips);
    if (!inputs || !outputs) return BIVLM_ERROR_MEMORY;
    deal(inputs.count(), inputs_crew, [&](int64_t thread, int64_t i) {
      prepare_inputs(inputs[i], scratch, scratch.at(spare + thread * step));
    });
    deal(outputs.count(), crew, [&](int64_t thread, int64_t i) {
      for (int64_t strip = outputs[i].begin; strip < outputs[i].end; ++strip)
        set_.multiply(jobs_[outputs[i].product].task, strip, scratch.at(spare + thread * step));
    });
    return 0;
  }

 private:
  // How many of `all` a thread takes at a time: an equal share of a single product
  int64_t most(int64_t all, int64_t crew, int64_t of_several) const {
    return crew == 1 ? all : count_ == 1 ? ceil_div(all, crew) : of_several;
  }

  // What product i has in common with earlier ones, and room for what it has alone
  void place(int64_t i) {
    Job& job = jobs_[i];
    const bivlm_trellis& w = *job.task.weight;
    const Needs needs = set_.linear_needs(job.task);
    own_ = larger(own_, round_up(needs.thread, kAlignment));
    while (job.tables < i && !same_tables(job.task, jobs_[job.tables].task)) ++job.tables;
    if (job.tables == i) job.tables_room = rooms_.take(needs.tables);
    while (job.inputs < i && !same_inputs(job.task, jobs_[job.inputs].task)) ++job.inputs;
    if (job.inputs != i) return;
    job.inputs_room = rooms_.take(needs.inputs);
    tokens_ += job.task.batch, inputs_ += job.task.batch * w.columns;
    while (job.turning < i && jobs_[job.turning].block() != job.block()) ++job.turning;
    const Bytes turning = w.signs ? turn_.bytes(job.block()) : Bytes{0, 0};
    if (job.turning == i) job.turning_room = rooms_.take(turning.shared);
    own_inputs_ = larger(own_inputs_, float_bytes(w) + round_up(turning.thread, kAlignment));
  }

  static int64_t float_bytes(const bivlm_trellis& w) {
    return round_up(w.columns * int64_t(sizeof(float)), kAlignment);
  }

  rotation::Task turning(const Job& job, const Scratch& scratch) const {
    const Task& task = job.task;
    return {task.x,      task.x_stride,      task.dtype,
            job.block(), task.weight->signs, scratch.at(jobs_[job.turning].turning_room)};
  }

  // The places of everything, tables, and what the rotations share
  void prepare(const Scratch& scratch) {
    for (int64_t i = 0; i < count_; ++i) {
      Job& job = jobs_[i];
      job.task.tables = scratch.at(jobs_[job.tables].tables_room);
      job.task.inputs = scratch.at(jobs_[job.inputs].inputs_room);
      if (job.tables == i) set_.prepare_tables(job.task);
      if (job.inputs == i && job.turning == i && job.block()) turn_.prepare(turning(job, scratch));
    }
  }

  void prepare_inputs(const Piece& piece, const Scratch& scratch, uint8_t* own) const {
    const Job& job = jobs_[piece.product];
    const bivlm_trellis& w = *job.task.weight;
    float* x = reinterpret_cast<float*>(own);
    for (int64_t token = piece.begin; token < piece.end; ++token) {
      w.signs ? rotation::rotate_blocks(turn_, turning(job, scratch), w.blocks, token, x,
                                        own + float_bytes(w))
              : plain_token(job.task, token, x);
      set_.prepare_token(job.task, token, x);
    }
  }

  const Kernels& set_ = *kernels().trellis;
  const rotation::Kernels& turn_ = *kernels().rotation;
  const Array<Job> jobs_;
  int64_t count_ = 0, strips_ = 0, work_ = 0, tokens_ = 0, inputs_ = 0, own_ = 0, own_inputs_ = 0;
  Rooms run_rooms_, rooms_;
};

int check(const bivlm_product& product) {
  const auto* weight = static_cast<const bivlm_trellis*>(product.weight);
  if (const int error = check(weight)) return error;
  return product.batch < 0 ||
                 (weight->rows && !known_inputs(weight->columns, product.x, product.x_stride,
                                                product.batch, product.y))
             ? BIVLM_ERROR_SHAPE
             : 0;
}

}  // namespace
}  // namespace bivlm::trellis

using namespace bivlm;
using namespace bivlm::trellis;

int bivlm_trellis_linear_many(const bivlm_product* products, int64_t count, int x_dtype,
                              int activations, int threads) {
  if (const int error = check_products(products, count, x_dtype)) return error;
  for (int64_t i = 0; i < count; ++i) {
    if (const int error = check(products[i])) return error;
  }
  Call call(count);
  if (!call) return BIVLM_ERROR_MEMORY;
  for (int64_t i = 0; i < count; ++i) {
    const auto* weight = static_cast<const bivlm_trellis*>(products[i].weight);
    if (products[i].batch && weight->rows) call.add(products[i], x_dtype, activations);
  }
  return call.run(threads);
}

int bivlm_trellis_linear(const bivlm_trellis* weight, const void* x, int64_t x_stride,
                         int64_t batch, int x_dtype, void* y, const void* bias, int activations,
                         int threads) {
  const bivlm_product product = {weight, x, x_stride, batch, y, bias};
  return bivlm_trellis_linear_many(&product, 1, x_dtype, activations, threads);
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
  task.tables = scratch.at(0);
  set.prepare_tables(task);
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
