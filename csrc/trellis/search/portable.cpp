// The portable search: the plain steps, compiled with no flags of an instruction set.
#include "trellis/search/viterbi.h"

namespace bivlm::search {

Kernel portable(int window, int k) { return generic(window, k); }

}  // namespace bivlm::search
