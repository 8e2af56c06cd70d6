#include "isa/processor.h"

namespace bivlm {

Features processor_features() {
  Features found = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c") && __builtin_cpu_supports("bmi2"))
    found |= kAvx2;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi"))
    found |= kAvx512;
#elif defined(__aarch64__)
  found |= kNeon;  // every 64-bit ARM processor has it
#endif
  return found;
}

}  // namespace bivlm
