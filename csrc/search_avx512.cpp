// The trellis search in AVX-512: compiled with its flags, called only where dispatch.cpp found it.
#include "search_avx512.h"

namespace bivlm {

SearchKernel avx512_search(int window, int k) { return search_in<VectorSearch>(window, k); }

}  // namespace bivlm
