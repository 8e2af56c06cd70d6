#pragma once

#include <vector>

namespace test {

// R x by the sum over all pairs of columns
std::vector<double> rotated(const std::vector<float>& x, const std::vector<float>& signs);

}  // namespace test
