// The scratch that a call asks for.
#pragma once

#include <cstdint>

namespace bivlm {

struct Bytes {
  int64_t shared, thread;  // of all threads together, and of each one
};

}  // namespace bivlm
