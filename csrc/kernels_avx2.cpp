// The kernels in AVX2: compiled with its flags, called only where dispatch.cpp found it.
#include "vector_avx2.h"

#include "kernels.h"

namespace bivlm {

const KernelSet& avx2_kernels() { return this_set(); }

}  // namespace bivlm
