// Random weights with planes (bivlm_planes).
#pragma once

#include "codes/weights.h"

namespace test {

void build_planes(Weight& out, const Options& options, uint32_t seed);

}  // namespace test
