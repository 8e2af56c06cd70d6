#include "isa/processor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace bivlm {
namespace {

#if defined(__x86_64__)
bool has_f16c() {  // which Clang's __builtin_cpu_supports does not know
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

}  // namespace

Features processor_features() {
  Features found = 0;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("bmi2") && has_f16c())
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
