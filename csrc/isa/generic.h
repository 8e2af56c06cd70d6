// The parts of every codec that are written once, for the instruction set that includes this file:
// after its Vector, its mix_lanes and its Tiles, in its one .cpp.
#pragma once

#include "codes/product.h"
#include "dispatch.h"
#include "isa/vector_rules.h"
#include "rotation/rotate.h"
#include "trellis/product.h"
#include "trellis/search/viterbi.h"

namespace bivlm {

static_assert(keeps_vector_rules<Vector>());
static_assert(keeps_mix_rules<Vector>(mix_lanes));
static_assert(trellis::keeps_tile_rules<trellis::Tiles>());

}  // namespace bivlm
