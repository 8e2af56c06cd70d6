/* The interface of the trellis kernels: search, product, unpacking and the rotation of the inputs.
 * Plain C, raw pointers, like bivlm_kernels.h.
 *
 * A weight (rows, columns) is diag(row_scale) T R. R is orthogonal: signs, then a discrete Hartley
 * transform over every prime factor of `columns` (docs/format.md). T holds int8 values that a table
 * gives for windows of `window` bits on a bit stream.
 */
#ifndef BIVLM_TRELLIS_H
#define BIVLM_TRELLIS_H

#include "bivlm_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#define BIVLM_TRELLIS_STRIP \
  64 /* rows of a strip; those of the last are rounded up to a multiple of BIVLM_TRELLIS_ROWS */
#define BIVLM_TRELLIS_ROWS 16
#define BIVLM_TRELLIS_RUN 16 /* columns that have the same number of bits */
#define BIVLM_TRELLIS_LEAD 2 /* zero bytes before the stream of a strip */
#define BIVLM_TRELLIS_MOST_BITS 4

/* The stream of a strip: BIVLM_TRELLIS_LEAD zero bytes, then column after column, in a column row
 * after row, `bits` bits per weight, lowest bit first. The window of a weight is the last `window`
 * bits up to and including its own, those nearest to it the highest. */
typedef struct {
  int64_t rows, columns;
  int32_t window;       /* 8, 12 or 16 */
  const uint8_t* codes; /* the streams of the strips, one after the other */
  int64_t code_bytes;
  const uint8_t* bits; /* (ceil(columns / 16),): 0 ... 4 bits per weight in every run of columns;
                          with 0 the values are 0 */
  const int8_t*
      table; /* value of a window; the table for k bits begins at (k - 1) * table_stride */
  int64_t table_stride;   /* 2^window, or 0: one table for all */
  const float* row_scale; /* (rows,) */
  const float* signs;     /* (columns,) +-1, or NULL: the inputs are not rotated */
} bivlm_trellis;

/* y[b, i] = row_scale[i] * sum_j T[i, j] (R x_b)[j] + bias[i]; the arguments are those of
 * bivlm_linear. */
BIVLM_API int bivlm_trellis_linear(const bivlm_trellis* weight, const void* x, int64_t x_stride,
                                   int64_t batch, int x_dtype, void* y, const void* bias,
                                   int activations, int threads);

/* Rows [begin, end) of diag(row_scale) T, in the rotated basis, as a contiguous matrix of `dtype`,
 * rounded once, to nearest even. */
BIVLM_API int bivlm_trellis_unpack(const bivlm_trellis* weight, int64_t begin, int64_t end,
                                   void* out, int dtype, int threads);

/* out[b] = R x_b: out (batch, columns) float32, contiguous. signs NULL: the transform alone, which
 * is its own inverse. */
BIVLM_API int bivlm_rotate(const void* x, int64_t x_stride, int64_t batch, int x_dtype,
                           int64_t columns, const float* signs, float* out, int threads);

/* Decide `columns` columns one after the other, all with k bits; rows have nothing in common but
 * the stream of their strip.
 *
 * w (columns, rows): the targets in units of the table's values, one column after the other; on
 * return the chosen values. u (columns, columns) upper: after column j is decided, w[c] -= u[j, c]
 * / u[j, j] * (w[j] - chosen[j]) for every c > j. state (strips,): the last `window` bits of each
 * strip's stream, read and written. symbols (columns, held rows of all strips): the k bits of every
 * weight. A column of a strip is the path that starts at its state and has the smallest sum of
 * squared differences, those to the first 16 rows of the next column as it stands counted in, since
 * the path goes on there. Differences count as at most 181, 90 and 45 for k up to 2, of 3 and of 4,
 * targets as at most 127; rows beyond `rows` have the target 0. Every instruction set and number of
 * threads gives the same bits. */
BIVLM_API int bivlm_trellis_search(float* w, int64_t rows, int64_t columns, const float* u,
                                   int32_t window, int32_t k, const int8_t* table, uint32_t* state,
                                   uint8_t* symbols, int threads);

#ifdef __cplusplus
}
#endif

#endif
