// The trellis kernels in NEON, which every 64-bit ARM processor has.
#include "mix_neon.h"
#include "trellis_tiles_neon.h"

#include "trellis_kernels.h"

namespace bivlm {

const TrellisSet& neon_trellis() { return this_trellis(); }

}  // namespace bivlm
