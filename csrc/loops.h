// Loops that are unrolled as a whole, so that arrays of vectors become registers. The counts are
// constants, and so then are shifts by the index.
#pragma once

#define BIVLM_UNROLL _Pragma("GCC unroll 16")
#define BIVLM_INLINE __attribute__((always_inline))
