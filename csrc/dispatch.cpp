// The choice of the instruction set: the first of the list that both the processor and this build
// have, unless another one is requested.
#include "dispatch.h"

#include <atomic>
#include <cstring>
#include <iterator>

namespace bivlm {
namespace {

#define BIVLM_ENTRY(name) &isa::name,
const Kernels* const kInstructionSets[] = {BIVLM_INSTRUCTION_SETS(BIVLM_ENTRY)};
#undef BIVLM_ENTRY

// The first one that the processor has, with this name if `name` is not null; else null
const Kernels* first(const char* name) {
  static const Features has = processor_features();
  for (const Kernels* set : kInstructionSets) {
    if ((set->needs & ~has) == 0 && (!name || !std::strcmp(set->name, name))) return set;
  }
  return nullptr;
}

std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> set{first(nullptr)};
  return set;
}

}  // namespace

const Kernels& kernels() { return *current().load(std::memory_order_relaxed); }

}  // namespace bivlm

const char* bivlm_instruction_set_name(int index) {
  using namespace bivlm;
  return index >= 0 && index < int(std::size(kInstructionSets)) ? kInstructionSets[index]->name
                                                                : nullptr;
}

const char* bivlm_instruction_set(void) { return bivlm::kernels().name; }

const char* bivlm_use_instruction_set(const char* name) {
  const bivlm::Kernels* asked = name ? bivlm::first(name) : nullptr;
  bivlm::current().store(asked ? asked : bivlm::first(nullptr));
  return bivlm_instruction_set();
}
