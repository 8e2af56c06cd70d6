// Which instruction set is used: the best that both the processor and this build have, unless
// another one is asked for.
#include <atomic>

#include "kernel_set.h"

namespace bivlm {
namespace {

bool has(int level) {
#if defined(BIVLM_HAVE_X86)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2");
  if (level == BIVLM_LEVEL_AVX2) return avx2;
  if (level == BIVLM_LEVEL_AVX512) {
    return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
  }
#elif defined(BIVLM_HAVE_NEON)
  if (level == BIVLM_LEVEL_NEON) return true;  // every 64-bit ARM processor has it
#endif
  return level == BIVLM_LEVEL_PORTABLE;
}

int best() {
  static const int level = has(BIVLM_LEVEL_AVX512) ? BIVLM_LEVEL_AVX512
                           : has(BIVLM_LEVEL_AVX2) ? BIVLM_LEVEL_AVX2
                           : has(BIVLM_LEVEL_NEON) ? BIVLM_LEVEL_NEON
                                                   : BIVLM_LEVEL_PORTABLE;
  return level;
}

std::atomic<int>& current() {
  static std::atomic<int> level{best()};
  return level;
}

}  // namespace

const KernelSet& kernels() {
  switch (current().load(std::memory_order_relaxed)) {
#if defined(BIVLM_HAVE_X86)
    case BIVLM_LEVEL_AVX2:
      return avx2_kernels();
    case BIVLM_LEVEL_AVX512:
      return avx512_kernels();
#endif
#if defined(BIVLM_HAVE_NEON)
    case BIVLM_LEVEL_NEON:
      return neon_kernels();
#endif
    default:
      return portable_kernels();
  }
}

}  // namespace bivlm

int bivlm_abi_version(void) { return BIVLM_ABI_VERSION; }

int bivlm_level(void) { return bivlm::current().load(); }

int bivlm_force_level(int level) {
  bivlm::current().store(bivlm::has(level) ? level : bivlm::best());
  return bivlm_level();
}
