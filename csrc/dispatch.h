// The one table of an instruction set, and the one list of them.
#pragma once

#include <cstdint>

#include "codes/task.h"
#include "isa/processor.h"
#include "rotation/task.h"
#include "trellis/search/task.h"
#include "trellis/task.h"

namespace bivlm {

// What an instruction set offers: for every codec its own kernels, or the portable ones by name.
struct Kernels {
  const char* name;  // as bivlm_use_instruction_set takes it
  Features needs;    // what the processor must have
  const codes::Kernels* codes;
  const trellis::Kernels* trellis;
  const rotation::Kernels* rotation;
  search::Kernels search;
};

// The table of an instruction set that this build lacks: its file was compiled without its flags.
constexpr Kernels not_built(const char* name) {
  return {name, kNoProcessor, nullptr, nullptr, nullptr, nullptr};
}

// Every instruction set that has a folder in isa/, best first
#define BIVLM_INSTRUCTION_SETS(SET) \
  SET(avx512)                       \
  SET(avx2)                         \
  SET(neon)                         \
  SET(portable)

namespace isa {
#define BIVLM_DECLARE(name) extern const Kernels name;
BIVLM_INSTRUCTION_SETS(BIVLM_DECLARE)
#undef BIVLM_DECLARE
}  // namespace isa

// The table in use
const Kernels& kernels();

}  // namespace bivlm
