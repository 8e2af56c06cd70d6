// The trellis search in AVX-512: compiled with its flags, called only where dispatch.cpp found it.
#include "search_avx512.h"

namespace bivlm {
namespace {

template <int L, int K>
using Best = std::conditional_t<vector_search(L, K), VectorSearch<L, K>, Search<L, K>>;

}  // namespace

SearchKernel avx512_search(int window, int k) { return search_in<Best>(window, k); }

}  // namespace bivlm
