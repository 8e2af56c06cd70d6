// Fully unrolled loops: arrays of vectors become registers. The counts are constants, so shifts by
// the index are constants too.
#pragma once

#define BIVLM_UNROLL _Pragma("GCC unroll 16")
#define BIVLM_INLINE __attribute__((always_inline))
