// No instruction set at all: the definitions of the codecs, for every processor.
#include "dispatch.h"

namespace bivlm::isa {

constexpr Kernels portable = {
    "portable", 0, &codes::portable, &trellis::portable, &rotation::portable, search::portable};

}  // namespace bivlm::isa
