// AVX2 with FMA, F16C and BMI2: compiled with their flags, called only where the processor has
// them.
#include "dispatch.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__) && defined(__BMI2__)

#include "isa/avx2/mix.h"
#include "isa/avx2/tiles.h"

#include "isa/generic.h"

namespace bivlm::isa {

constexpr Kernels avx2 = {
    "avx2", kAvx2, &codes::generic, &trellis::generic, &rotation::generic, search::generic};

}  // namespace bivlm::isa

#else

constexpr bivlm::Kernels bivlm::isa::avx2 = bivlm::not_built("avx2");

#endif
