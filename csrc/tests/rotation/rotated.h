#pragma once

#include <cstdint>
#include <vector>

namespace test {

// R x by the sum over all pairs of columns, with `blocks` diagonal blocks
std::vector<double> rotated(const std::vector<float>& x, const std::vector<float>& signs,
                            int64_t blocks = 1);

}  // namespace test
