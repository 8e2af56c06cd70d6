/* The interface of the native library: products with packed weights and their unpacking, the
 * rotation of inputs, the search of a trellis. Plain C, raw pointers, version 7.
 *
 * The structs describe tensors in the caller's memory; docs/format.md defines the bytes. Numbers of
 * more than one byte are little-endian; pointers need no alignment. Nothing is kept between calls,
 * and several threads may call at the same time.
 */
#ifndef BIVLM_H
#define BIVLM_H

#include <stdint.h>

#define BIVLM_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* The library itself */

#define BIVLM_ABI_VERSION 7

/* Errors; nothing was written */
#define BIVLM_ERROR_SHAPE (-1)  /* rows, columns, groups, strides, counts that contradict */
#define BIVLM_ERROR_WEIGHT (-2) /* an unknown kind, width or alphabet, or a missing pointer */
#define BIVLM_ERROR_DTYPE (-3)  /* of x or of the output */
#define BIVLM_ERROR_MEMORY (-4) /* no memory for the scratch */

/* dtypes of x, y, bias and of unpacked weights */
#define BIVLM_FLOAT32 0
#define BIVLM_BFLOAT16 1
#define BIVLM_FLOAT16 2

BIVLM_API int bivlm_abi_version(void);

/* The layout of this header, for callers that repeat it in another language: the size of
 * "bivlm_weight", the offset of "bivlm_weight.codes", the value of "BIVLM_KIND_PLANE"; the same for
 * every struct, field and constant that describes a weight, and the dtypes. -1 for other names. */
BIVLM_API int64_t bivlm_layout(const char* name);

/* The instruction sets that the library is written for, best first: "avx512", ..., "portable".
 * NULL beyond the last. */
BIVLM_API const char* bivlm_instruction_set_name(int index);

/* The instruction set in use. */
BIVLM_API const char* bivlm_instruction_set(void);

/* Use another instruction set from now on, in all threads. If the processor or the build lacks it,
 * for an unknown name and for NULL, the best one is used. Returns the instruction set in use. */
BIVLM_API const char* bivlm_use_instruction_set(const char* name);

/* One of several products that a call makes together, with the arguments that are its own. */
typedef struct {
  const void* weight; /* bivlm_weight, or bivlm_trellis, as the function says */
  const void* x;
  int64_t x_stride, batch;
  void* y;
  const void* bias;
} bivlm_product;

/* Weights of codes (csrc/codes) */

/* `kind` */
#define BIVLM_KIND_LEVELS 0  /* scale * level */
#define BIVLM_KIND_UNIFORM 1 /* (code - zero) * (number * scale) * column_scale */
#define BIVLM_KIND_PLANE 2   /* +-(number * scale), + where the bit is 1 */

/* `dtype` of bivlm_numbers */
#define BIVLM_NUMBERS_NONE 0 /* all are one */
#define BIVLM_NUMBERS_FLOAT32 1
#define BIVLM_NUMBERS_FLOAT16 2
#define BIVLM_NUMBERS_UINT8 3 /* times unit */
#define BIVLM_NUMBERS_INT8 4  /* times unit */

/* `zero_kind` */
#define BIVLM_ZERO_MIDDLE 0 /* (alphabet - 1) / 2 */
#define BIVLM_ZERO_CODE 1   /* uint8 (rows, groups) */
#define BIVLM_ZERO_FREE 2   /* float16 (rows, groups) */

/* Numbers (rows, groups), or of several kinds: (rows, groups, kinds) */
typedef struct {
  const void* values;
  int32_t dtype;
  const uint16_t* unit; /* float16 (rows,), or (rows, kinds) */
} bivlm_numbers;

#define BIVLM_PLANES_WORD 64  /* the column scales of a part are a multiple of so many */
#define BIVLM_PLANES_LEAP 255 /* columns that a step of 0 in a tail leads on */

/* What a plane has besides one sign for each weight (docs/format.md, `planes`). A column is
 * ordinary or salient; a weight of it belongs to one of the parts of its kind of column.
 *
 * The weight's scales are of S = parts + 2 * salient_parts kinds: ordinary part p has p, salient
 * part q has parts + 2q for the first sign and parts + 2q + 1 for the second. */
typedef struct {
  int32_t parts;               /* of ordinary columns: 1, 2 */
  int32_t salient_parts;       /* of salient columns: 1, 2; 0 when there are none */
  const uint8_t* salient;      /* (ceil(columns / 8),): a bit for each column; NULL for none */
  const uint8_t* partition;    /* the part of each weight in the columns whose kind has two */
  int64_t partition_bytes;     /* from one row of it to the next */
  const uint8_t* second_signs; /* of each weight in the salient columns */
  int64_t second_bytes;
  bivlm_numbers means; /* of parts + salient_parts kinds, or BIVLM_NUMBERS_NONE for none */
  const uint16_t* column_scales;  /* float16 (4, columns rounded up to BIVLM_PLANES_WORD), or NULL:
                                     of the first sign in part 0 and part 1, of the second in part 0
                                     and part 1; 1 where a column has none */
  const int64_t* tail_start;      /* (rows + 1,) or NULL, only with one part and no salient columns:
                                     entries of row i are tail_start[i] .. tail_start[i + 1] - 1,
                                     columns ascending */
  const int64_t* tail_step_start; /* (rows + 1,): the same of tail_steps */
  const uint8_t* tail_steps;      /* from column to column, the first of a row from column -1; 0:
                                     BIVLM_PLANES_LEAP on, and no entry there */
  const uint8_t* tail_bits;   /* the upper seven bits of each entry's code, as fields; the lowest
                                 lies in the plane of signs */
  const uint16_t* tail_scale; /* float16 (rows,) */
  const uint16_t* tail_zero;  /* float16 (rows,) */
} bivlm_planes;

/* A weight (rows, columns). Column j is in group j / group_size; groups = ceil(columns /
 * group_size). Row i of the codes begins at codes + i * row_bytes: fields back to back, lowest bit
 * first. */
typedef struct {
  int32_t kind;
  int32_t bits; /* width of a code's field: levels 1..4, uniform 1..8, plane 1 */
  int64_t rows, columns, group_size, groups;
  const uint8_t* codes;
  int64_t row_bytes;
  int64_t group_bytes;    /* plane: 0, or group g of a row begins at g * group_bytes with its
                             float16 scale, and 2 bytes later its signs */
  float scale;            /* levels: the weight's scale; uniform, plane: 2^exponent */
  const uint16_t* levels; /* levels: float16 (table_rows, groups, L), ascending; L = alphabet, or
                             alphabet / 2 magnitudes when symmetric */
  int64_t table_rows;     /* 1 or rows */
  int32_t alphabet;
  int32_t symmetric;
  bivlm_numbers scales; /* uniform; plane unless group_bytes */
  int32_t zero_kind;    /* uniform */
  const void* zeros;
  const uint16_t* column_scale; /* uniform: float16 (columns,) or NULL */
  const int64_t* tail_start;    /* levels: (rows + 1,) or NULL: entries of row i are tail_start[i]
                                   .. tail_start[i + 1] - 1, columns ascending */
  const void* tail_entries;     /* column << 2 | tail code, uint16, or uint32 when tail_wide */
  int32_t tail_wide;
  const float* tail_levels;    /* (4,) */
  const uint16_t* tail_scale;  /* float16 (rows,) */
  const uint16_t* tail_values; /* float16, one for each entry, or NULL; in place of tail_levels and
                                  tail_scale, and the tail codes are then 0 */
  const bivlm_planes* planes;  /* plane, unless group_bytes: what it has besides signs, or NULL */
} bivlm_weight;

/* y[b, i] = sum_j w[i, j] x[b, j] + bias[i].
 * x (batch, columns), rows x_stride elements apart; y (batch, rows) contiguous; bias NULL or
 * (rows,); all of x_dtype. activations 0: float32 arithmetic. 1: x may be rounded to int8, with one
 * float32 scale per token and 128 columns. */
BIVLM_API int bivlm_linear(const bivlm_weight* weight, const void* x, int64_t x_stride,
                           int64_t batch, int x_dtype, void* y, const void* bias, int activations,
                           int threads);

/* `count` products with bivlm_weights, each with the numbers that bivlm_linear gives it. The
 * threads share the rows of all, and products of the same x prepare it once. */
BIVLM_API int bivlm_linear_many(const bivlm_product* products, int64_t count, int x_dtype,
                                int activations, int threads);

/* Rows [begin, end) as a contiguous matrix of `dtype`, rounded once, to nearest even. */
BIVLM_API int bivlm_unpack(const bivlm_weight* weight, int64_t begin, int64_t end, void* out,
                           int dtype, int threads);

/* The rotation of inputs (csrc/rotation): R x multiplies x by the signs, then applies the Hartley
 * transform over every prime factor of `columns` / `blocks`, to each of the `blocks` equal parts of
 * x (docs/format.md). R is orthogonal. */

/* out[b] = R x_b: out (batch, columns) float32, contiguous. signs (columns,) +-1; NULL: the
 * transform alone, which is its own inverse. `blocks` divides `columns`. */
BIVLM_API int bivlm_rotate(const void* x, int64_t x_stride, int64_t batch, int x_dtype,
                           int64_t columns, int64_t blocks, const float* signs, float* out,
                           int threads);

/* Trellis weights (csrc/trellis): diag(row_scale) T R. T holds int8 values that a table gives for
 * windows of `window` bits on a bit stream. */

#define BIVLM_TRELLIS_STRIP 64 /* rows of a strip; the last is rounded up to a multiple of ROWS */
#define BIVLM_TRELLIS_ROWS 16
#define BIVLM_TRELLIS_RUN 16 /* columns that have the same number of bits */
#define BIVLM_TRELLIS_LEAD 2 /* bytes before the stream of a strip */
#define BIVLM_TRELLIS_MOST_BITS 4

/* The stream of a strip: BIVLM_TRELLIS_LEAD bytes (zeros, or what lies before it in the weight that
 * this one was cut from), then column after column, in a column row after row, `bits` bits per
 * weight, lowest bit first. The window of a weight is the last `window` bits up to and including
 * its own, those nearest to it the highest. */
typedef struct {
  int64_t rows, columns;
  int32_t window;       /* 8, 12 or 16 */
  const uint8_t* codes; /* the streams of the strips, one after the other */
  int64_t code_bytes;
  const uint8_t* bits;    /* (ceil(columns / 16),): 0 ... 4 bits per weight in every run of columns;
                             with 0 the values are 0 */
  const int8_t* table;    /* value of a window; that for k bits begins at (k - 1) * table_stride */
  int64_t table_stride;   /* 2^window, or 0: one table for all */
  const float* row_scale; /* (rows,) */
  const float* signs;     /* (columns,) +-1, or NULL: the inputs are not rotated */
  int64_t blocks;         /* of the rotation, with signs; divides columns */
} bivlm_trellis;

/* y[b, i] = row_scale[i] * sum_j T[i, j] (R x_b)[j] + bias[i]; the arguments are those of
 * bivlm_linear. */
BIVLM_API int bivlm_trellis_linear(const bivlm_trellis* weight, const void* x, int64_t x_stride,
                                   int64_t batch, int x_dtype, void* y, const void* bias,
                                   int activations, int threads);

/* The same as bivlm_linear_many, with bivlm_trellis. */
BIVLM_API int bivlm_trellis_linear_many(const bivlm_product* products, int64_t count, int x_dtype,
                                        int activations, int threads);

/* Rows [begin, end) of diag(row_scale) T, in the rotated basis, as a contiguous matrix of `dtype`,
 * rounded once, to nearest even. */
BIVLM_API int bivlm_trellis_unpack(const bivlm_trellis* weight, int64_t begin, int64_t end,
                                   void* out, int dtype, int threads);

/* The search of a trellis (csrc/trellis/search) */

/* Quantize `columns` columns one after the other, all with k bits; rows share only the stream of
 * their strip.
 *
 * w (columns, rows): the targets in units of the table's values, one column after the other; on
 * return the chosen values. u (columns, columns) upper: after column j is quantized, w[c] -= u[j,
 * c] / u[j, j] * (w[j] - chosen[j]) for every c > j. state (strips,): the last `window` bits of
 * each strip's stream, read and written. symbols (columns, held rows of all strips): the k bits of
 * every weight.
 *
 * A column of a strip is the path that starts at its state and has the smallest sum of squared
 * differences. The sum includes the first 16 rows of the next column with their current values,
 * since the path goes on there. Differences count as at most 181, 90 and 45 for k up to 2, of 3 and
 * of 4, targets as at most 127; rows beyond `rows` have the target 0. Every instruction set and
 * number of threads gives the same bits. */
BIVLM_API int bivlm_trellis_search(float* w, int64_t rows, int64_t columns, const float* u,
                                   int32_t window, int32_t k, const int8_t* table, uint32_t* state,
                                   uint8_t* symbols, int threads);

#ifdef __cplusplus
}
#endif

#endif
