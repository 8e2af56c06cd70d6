/* The interface of the native kernels: products with packed weights, and their unpacking. Plain C,
 * raw pointers, version 2.
 *
 * The structs describe tensors that lie where the caller has them; docs/format.md says what the
 * bytes mean. Numbers of more than one byte are little-endian; pointers need no alignment. Nothing
 * is kept between calls, and calls from several threads do not disturb each other.
 */
#ifndef BIVLM_KERNELS_H
#define BIVLM_KERNELS_H

#include <stdint.h>

#if defined(_WIN32)
#define BIVLM_API __declspec(dllexport)
#else
#define BIVLM_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define BIVLM_ABI_VERSION 2

/* `kind` */
#define BIVLM_KIND_LEVELS 0  /* scale * level */
#define BIVLM_KIND_UNIFORM 1 /* (code - zero) * (number * scale) * column_scale */
#define BIVLM_KIND_PLANE 2   /* +-(number * scale), + where the bit is 1 */

/* dtypes of x, y, bias and of unpacked weights */
#define BIVLM_FLOAT32 0
#define BIVLM_BFLOAT16 1
#define BIVLM_FLOAT16 2

/* What bivlm_level returns and bivlm_force_level takes */
#define BIVLM_LEVEL_PORTABLE 0
#define BIVLM_LEVEL_AVX2 1   /* avx2, fma, f16c, bmi2 */
#define BIVLM_LEVEL_AVX512 2 /* the same and avx512 f, bw, vl, dq, vnni, vbmi */
#define BIVLM_LEVEL_NEON 3

/* Errors; nothing was written */
#define BIVLM_ERROR_SHAPE \
  (-1) /* rows, columns, groups, strides, counts or row numbers that contradict each other */
#define BIVLM_ERROR_WEIGHT \
  (-2) /* a kind, width, alphabet or dtype of numbers that is not known, or a missing pointer */
#define BIVLM_ERROR_DTYPE (-3)  /* of x or of the output */
#define BIVLM_ERROR_MEMORY (-4) /* no memory for the scratch */

/* Numbers (rows, groups): dtype 0 none (all are one), 1 float32, 2 float16, 3 uint8, 4 int8; those
 * of 3 and 4 times unit, float16 (rows,). */
typedef struct {
  const void* values;
  int32_t dtype;
  const uint16_t* unit;
} bivlm_numbers;

/* A weight (rows, columns). Column j is in group j / group_size; groups = ceil(columns /
 * group_size). */
typedef struct {
  int32_t kind;
  int32_t bits; /* width of a code's field: levels 1..4, uniform 1..8, plane 1 */
  int64_t rows, columns, group_size, groups;
  const uint8_t*
      codes; /* row i begins at codes + i * row_bytes; fields back to back, lowest bit first */
  int64_t row_bytes;
  int64_t group_bytes; /* plane: 0, or group g of a row begins at g * group_bytes with its float16
                          scale, and 2 bytes later its signs */
  float scale;         /* levels: the weight's scale; uniform, plane: 2^exponent */
  const uint16_t* levels; /* levels: float16 (table_rows, groups, L), ascending; L = alphabet, or
                             alphabet / 2 magnitudes when symmetric */
  int64_t table_rows;     /* 1 or rows */
  int32_t alphabet;
  int32_t symmetric;
  bivlm_numbers scales; /* uniform; plane unless group_bytes */
  int32_t zero_kind; /* uniform: 0 the middle, (alphabet - 1) / 2; 1 uint8 (rows, groups); 2 float16
                        (rows, groups) */
  const void* zeros;
  const uint16_t* column_scale; /* uniform: float16 (columns,) or NULL */
  const int64_t* tail_start; /* levels: (rows + 1,) or NULL: entries of row i are tail_start[i] ..
                                tail_start[i + 1] - 1, columns ascending */
  const void* tail_entries;  /* column << 2 | tail code, uint16, or uint32 when tail_wide */
  int32_t tail_wide;
  const float* tail_levels;   /* (4,) */
  const uint16_t* tail_scale; /* float16 (rows,) */
} bivlm_weight;

BIVLM_API int bivlm_abi_version(void);

/* The instruction set in use. */
BIVLM_API int bivlm_level(void);

/* Use another instruction set from now on, in all threads; the best one when the processor or the
 * build lacks it. Returns the one in use. */
BIVLM_API int bivlm_force_level(int level);

/* y[b, i] = sum_j w[i, j] x[b, j] + bias[i].
 * x (batch, columns), rows x_stride elements apart; y (batch, rows) contiguous; bias NULL or
 * (rows,); all of x_dtype. activations 0: float32 arithmetic. 1: x may be rounded to int8, with one
 * float32 scale per token and 128 columns. */
BIVLM_API int bivlm_linear(const bivlm_weight* weight, const void* x, int64_t x_stride,
                           int64_t batch, int x_dtype, void* y, const void* bias, int activations,
                           int threads);

/* Rows [begin, end) as a contiguous matrix of `dtype`, rounded once, to nearest even. */
BIVLM_API int bivlm_unpack(const bivlm_weight* weight, int64_t begin, int64_t end, void* out,
                           int dtype, int threads);

#ifdef __cplusplus
}
#endif

#endif
