// NEON, which every 64-bit ARM processor has. The search has no version for it.
#include "dispatch.h"

#if defined(__aarch64__)

#include "isa/neon/mix.h"
#include "isa/neon/tiles.h"

#include "isa/generic.h"

namespace bivlm::isa {

constexpr Kernels neon = {
    "neon", kNeon, &codes::generic, &trellis::generic, &rotation::generic, search::portable};

}  // namespace bivlm::isa

#else

constexpr bivlm::Kernels bivlm::isa::neon = bivlm::not_built("neon");

#endif
