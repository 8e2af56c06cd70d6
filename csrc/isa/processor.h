// The processor features that instruction sets need. They are detected in processor.cpp, which is
// compiled without any flags: a file with flags could fail before the detection.
#pragma once

#include <cstdint>

namespace bivlm {

using Features = uint32_t;

constexpr Features kAvx2 = 1u << 0;    // with FMA, F16C and BMI2, as in every processor that has it
constexpr Features kAvx512 = 1u << 1;  // F, BW, VL, DQ, VNNI, VBMI
constexpr Features kNeon = 1u << 2;
constexpr Features kNoProcessor = 1u << 31;  // no processor has it

Features processor_features();

}  // namespace bivlm
