// The trellis search in AVX2: compiled with its flags, called only where dispatch.cpp found it.
#include "trellis_search.h"

namespace bivlm {

SearchKernel avx2_search(int window, int k) { return search_in<Search>(window, k); }

}  // namespace bivlm
