// The trellis kernels in AVX-512: compiled with its flags, called only where dispatch.cpp found it.
#include "mix_avx512.h"
#include "trellis_tiles_avx512.h"

#include "trellis_kernels.h"

namespace bivlm {

const TrellisSet& avx512_trellis() { return this_trellis(); }

}  // namespace bivlm
