// bivlm::trellis_linear.out for ExecuTorch: the product with a weight in
// `trellis`, by csrc/include/bivlm.h. The weight's tensors are constants of the
// program; packed_mlp.py makes them.
#include <executorch/extension/kernel_util/make_boxed_from_unboxed_functor.h>
#include <executorch/runtime/kernel/kernel_includes.h>

#include "bivlm.h"

namespace {

using executorch::aten::ScalarType;
using executorch::aten::SizesType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::KernelRuntimeContext;
using executorch::runtime::tensor_is_contiguous;

constexpr int kFloatActivations = 0;
constexpr int kThreads = 1;

bool is(const Tensor &tensor, ScalarType dtype, int64_t count) {
  return tensor.scalar_type() == dtype && tensor.numel() == count &&
         tensor_is_contiguous(tensor);
}

// x (..., columns) to out (..., rows)
Error resize(const Tensor &x, int64_t rows, Tensor &out) {
  SizesType sizes[executorch::runtime::kTensorDimensionLimit];
  for (ssize_t i = 0; i < x.dim(); ++i) {
    sizes[i] = x.size(i);
  }
  sizes[x.dim() - 1] = static_cast<SizesType>(rows);
  return executorch::runtime::resize_tensor(
      out, {sizes, static_cast<size_t>(x.dim())});
}

// The library trusts pointers, so the number of elements of every tensor is
// checked here; it checks the rest.
Tensor &trellis_linear(KernelRuntimeContext &context, const Tensor &x,
                       const Tensor &bias, const Tensor &codes,
                       const Tensor &bits, const Tensor &table,
                       const Tensor &row_scale, const Tensor &signs,
                       int64_t window, int64_t blocks, Tensor &out) {
  const int64_t rows = row_scale.numel(), columns = signs.numel();
  const int64_t runs = (columns + BIVLM_TRELLIS_RUN - 1) / BIVLM_TRELLIS_RUN;
  ET_KERNEL_CHECK(context, window >= 8 && window <= 16, InvalidArgument, out);
  ET_KERNEL_CHECK(context,
                  x.dim() > 0 && columns > 0 && x.size(x.dim() - 1) == columns,
                  InvalidArgument, out);
  ET_KERNEL_CHECK(context, is(x, ScalarType::Float, x.numel()), InvalidArgument,
                  out);
  ET_KERNEL_CHECK(context, is(bias, ScalarType::Float, rows), InvalidArgument,
                  out);
  ET_KERNEL_CHECK(context, is(codes, ScalarType::Byte, codes.numel()),
                  InvalidArgument, out);
  ET_KERNEL_CHECK(context, is(bits, ScalarType::Byte, runs), InvalidArgument,
                  out);
  ET_KERNEL_CHECK(
      context, is(table, ScalarType::Char, BIVLM_TRELLIS_MOST_BITS << window),
      InvalidArgument, out);
  ET_KERNEL_CHECK(context, is(row_scale, ScalarType::Float, rows),
                  InvalidArgument, out);
  ET_KERNEL_CHECK(context, is(signs, ScalarType::Float, columns),
                  InvalidArgument, out);
  ET_KERNEL_CHECK(context, resize(x, rows, out) == Error::Ok, InvalidArgument,
                  out);
  ET_KERNEL_CHECK(context,
                  is(out, ScalarType::Float, x.numel() / columns * rows),
                  InvalidArgument, out);

  bivlm_trellis weight{};
  weight.rows = rows;
  weight.columns = columns;
  weight.window = static_cast<int32_t>(window);
  weight.codes = codes.const_data_ptr<uint8_t>();
  weight.code_bytes = codes.numel();
  weight.bits = bits.const_data_ptr<uint8_t>();
  weight.table = table.const_data_ptr<int8_t>();
  weight.table_stride = int64_t{1} << window;
  weight.row_scale = row_scale.const_data_ptr<float>();
  weight.signs = signs.const_data_ptr<float>();
  weight.blocks = blocks;
  const int code = bivlm_trellis_linear(
      &weight, x.const_data_ptr<float>(), columns, x.numel() / columns,
      BIVLM_FLOAT32, out.mutable_data_ptr<float>(),
      bias.const_data_ptr<float>(), kFloatActivations, kThreads);
  ET_KERNEL_CHECK_MSG(context, code == 0, InvalidProgram, out,
                      "bivlm_trellis_linear returned %d", code);
  return out;
}

} // namespace

EXECUTORCH_LIBRARY(bivlm, "trellis_linear.out", trellis_linear);
