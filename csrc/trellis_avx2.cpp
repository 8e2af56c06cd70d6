// The trellis kernels in AVX2: compiled with its flags, called only where dispatch.cpp found it.
#include "mix_avx2.h"
#include "trellis_tiles_avx2.h"

#include "trellis_kernels.h"

namespace bivlm {

const TrellisSet& avx2_trellis() { return this_trellis(); }

}  // namespace bivlm
