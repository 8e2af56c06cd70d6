// The library's description of itself: its version, and the structs and constants of bivlm.h.
#include <cstddef>
#include <cstring>

#include "bivlm.h"

namespace {

struct Fact {
  const char* name;
  int64_t value;
};

#define BIVLM_SIZE(type) {#type, int64_t(sizeof(type))}
#define BIVLM_FIELD(type, field) {#type "." #field, int64_t(offsetof(type, field))}
#define BIVLM_CONSTANT(name) {#name, name}

constexpr Fact kFacts[] = {
    BIVLM_SIZE(bivlm_numbers),
    BIVLM_FIELD(bivlm_numbers, values),
    BIVLM_FIELD(bivlm_numbers, dtype),
    BIVLM_FIELD(bivlm_numbers, unit),

    BIVLM_SIZE(bivlm_planes),
    BIVLM_FIELD(bivlm_planes, parts),
    BIVLM_FIELD(bivlm_planes, salient_parts),
    BIVLM_FIELD(bivlm_planes, salient),
    BIVLM_FIELD(bivlm_planes, partition),
    BIVLM_FIELD(bivlm_planes, partition_bytes),
    BIVLM_FIELD(bivlm_planes, second_signs),
    BIVLM_FIELD(bivlm_planes, second_bytes),
    BIVLM_FIELD(bivlm_planes, means),
    BIVLM_FIELD(bivlm_planes, column_scales),
    BIVLM_FIELD(bivlm_planes, tail_start),
    BIVLM_FIELD(bivlm_planes, tail_step_start),
    BIVLM_FIELD(bivlm_planes, tail_steps),
    BIVLM_FIELD(bivlm_planes, tail_bits),
    BIVLM_FIELD(bivlm_planes, tail_scale),
    BIVLM_FIELD(bivlm_planes, tail_zero),

    BIVLM_SIZE(bivlm_weight),
    BIVLM_FIELD(bivlm_weight, kind),
    BIVLM_FIELD(bivlm_weight, bits),
    BIVLM_FIELD(bivlm_weight, rows),
    BIVLM_FIELD(bivlm_weight, columns),
    BIVLM_FIELD(bivlm_weight, group_size),
    BIVLM_FIELD(bivlm_weight, groups),
    BIVLM_FIELD(bivlm_weight, codes),
    BIVLM_FIELD(bivlm_weight, row_bytes),
    BIVLM_FIELD(bivlm_weight, group_bytes),
    BIVLM_FIELD(bivlm_weight, scale),
    BIVLM_FIELD(bivlm_weight, levels),
    BIVLM_FIELD(bivlm_weight, table_rows),
    BIVLM_FIELD(bivlm_weight, alphabet),
    BIVLM_FIELD(bivlm_weight, symmetric),
    BIVLM_FIELD(bivlm_weight, scales),
    BIVLM_FIELD(bivlm_weight, zero_kind),
    BIVLM_FIELD(bivlm_weight, zeros),
    BIVLM_FIELD(bivlm_weight, column_scale),
    BIVLM_FIELD(bivlm_weight, tail_start),
    BIVLM_FIELD(bivlm_weight, tail_entries),
    BIVLM_FIELD(bivlm_weight, tail_wide),
    BIVLM_FIELD(bivlm_weight, tail_levels),
    BIVLM_FIELD(bivlm_weight, tail_scale),
    BIVLM_FIELD(bivlm_weight, tail_values),
    BIVLM_FIELD(bivlm_weight, planes),

    BIVLM_SIZE(bivlm_trellis),
    BIVLM_FIELD(bivlm_trellis, rows),
    BIVLM_FIELD(bivlm_trellis, columns),
    BIVLM_FIELD(bivlm_trellis, window),
    BIVLM_FIELD(bivlm_trellis, codes),
    BIVLM_FIELD(bivlm_trellis, code_bytes),
    BIVLM_FIELD(bivlm_trellis, bits),
    BIVLM_FIELD(bivlm_trellis, table),
    BIVLM_FIELD(bivlm_trellis, table_stride),
    BIVLM_FIELD(bivlm_trellis, row_scale),
    BIVLM_FIELD(bivlm_trellis, signs),
    BIVLM_FIELD(bivlm_trellis, blocks),

    BIVLM_SIZE(bivlm_product),
    BIVLM_FIELD(bivlm_product, weight),
    BIVLM_FIELD(bivlm_product, x),
    BIVLM_FIELD(bivlm_product, x_stride),
    BIVLM_FIELD(bivlm_product, batch),
    BIVLM_FIELD(bivlm_product, y),
    BIVLM_FIELD(bivlm_product, bias),

    BIVLM_CONSTANT(BIVLM_FLOAT32),
    BIVLM_CONSTANT(BIVLM_BFLOAT16),
    BIVLM_CONSTANT(BIVLM_FLOAT16),
    BIVLM_CONSTANT(BIVLM_KIND_LEVELS),
    BIVLM_CONSTANT(BIVLM_KIND_UNIFORM),
    BIVLM_CONSTANT(BIVLM_KIND_PLANE),
    BIVLM_CONSTANT(BIVLM_NUMBERS_NONE),
    BIVLM_CONSTANT(BIVLM_NUMBERS_FLOAT32),
    BIVLM_CONSTANT(BIVLM_NUMBERS_FLOAT16),
    BIVLM_CONSTANT(BIVLM_NUMBERS_UINT8),
    BIVLM_CONSTANT(BIVLM_NUMBERS_INT8),
    BIVLM_CONSTANT(BIVLM_ZERO_MIDDLE),
    BIVLM_CONSTANT(BIVLM_ZERO_CODE),
    BIVLM_CONSTANT(BIVLM_ZERO_FREE),
    BIVLM_CONSTANT(BIVLM_PLANES_WORD),
    BIVLM_CONSTANT(BIVLM_PLANES_LEAP),
    BIVLM_CONSTANT(BIVLM_TRELLIS_STRIP),
    BIVLM_CONSTANT(BIVLM_TRELLIS_ROWS),
    BIVLM_CONSTANT(BIVLM_TRELLIS_RUN),
    BIVLM_CONSTANT(BIVLM_TRELLIS_LEAD),
    BIVLM_CONSTANT(BIVLM_TRELLIS_MOST_BITS),
};

}  // namespace

int bivlm_abi_version(void) { return BIVLM_ABI_VERSION; }

int64_t bivlm_layout(const char* name) {
  for (const Fact& fact : kFacts) {
    if (!std::strcmp(fact.name, name)) return fact.value;
  }
  return -1;
}
