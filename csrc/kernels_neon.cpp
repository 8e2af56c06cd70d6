// The kernels in NEON, which every 64-bit ARM processor has.
#include "vector_neon.h"

#include "kernels.h"

namespace bivlm {

const KernelSet& neon_kernels() { return this_set(); }

}  // namespace bivlm
