// AVX-512 with VNNI and VBMI: compiled with their flags, called only where the processor has them.
#include "dispatch.h"

#if defined(__AVX512F__) && defined(__AVX512VNNI__) && defined(__AVX512VBMI__)

#include "isa/avx512/mix.h"
#include "isa/avx512/search.h"
#include "isa/avx512/tiles.h"

#include "isa/generic.h"

namespace bivlm::isa {

constexpr Kernels avx512 = {"avx512",          kAvx2 | kAvx512,    &codes::generic,
                            &trellis::generic, &rotation::generic, search::vectored};

}  // namespace bivlm::isa

#else

constexpr bivlm::Kernels bivlm::isa::avx512 = bivlm::not_built("avx512");

#endif
