// The kernels in AVX-512: compiled with its flags, called only where dispatch.cpp found it.
#include "vector_avx512.h"

#include "kernels.h"

namespace bivlm {

const KernelSet& avx512_kernels() { return this_set(); }

}  // namespace bivlm
