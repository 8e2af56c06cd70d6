// The requirements for an instruction set that a compiler can check: names, types and sizes.
// README.md says what the operations compute.
#pragma once

#include <cstdint>
#include <type_traits>

#include "trellis/task.h"

namespace bivlm {
namespace {

// Whether a function has a type; if not, an error names the function
template <class Type>
constexpr bool offers(Type*) {
  return true;
}

template <class V>
constexpr bool keeps_vector_rules() {
  using F = typename V::Floats;
  using I = typename V::Ints;
  using T = typename V::Table;
  using W = typename V::Where;

  static_assert(V::kBytes == 4 * V::kLanes, "a lane is 32 bits");
  static_assert(16 % V::kLanes == 0, "tables of 16 numbers are whole vectors");
  static_assert(sizeof(F) == size_t(V::kBytes) && sizeof(I) == size_t(V::kBytes), "one register");
  static_assert(V::kIndexBits == 3 || V::kIndexBits == 4, "bits of an index that lookup looks at");
  static_assert(V::kByteBits == 7 || V::kByteBits == 8, "bits of a weight that dot takes");
  static_assert(V::kWidestBytes >= 4 && V::kWidestBytes <= 8, "widest code of the int8 paths");
  static_assert(std::is_same<decltype(V::kLooksUpCodes), const bool>::value,
                "whether lookup beats mask and convert");
  static_assert(V::odd_slices(3) == 2, "vectors that `odd` decodes of three bits");
  static_assert(V::template octet_reads<3> <= 64 && V::template odd_reads<3> <= 64);
  static_assert(V::Decoder::kReads == 64, "bytes that `decode` may read");
  static_assert(std::is_constructible<typename V::Deposit, uint64_t>::value, "from a mask");
  [[maybe_unused]] uint64_t (V::Deposit::*deposit)(uint64_t) const = &V::Deposit::operator();
  [[maybe_unused]] void (V::Decoder::*decode)(const uint8_t*, uint8_t*) const = &V::Decoder::decode;

  // float32
  static_assert(offers<F()>(V::zero));
  static_assert(offers<F(float)>(V::set));
  static_assert(offers<F(const float*)>(V::read));
  static_assert(offers<void(float*, F)>(V::write));
  static_assert(offers<F(F, F)>(V::add));
  static_assert(offers<F(F, F)>(V::sub));
  static_assert(offers<F(F, F)>(V::mul));
  static_assert(offers<F(F, F)>(V::largest));
  static_assert(offers<F(F, F, F)>(V::fma));
  static_assert(offers<float(F)>(V::sum));
  static_assert(offers<float(F)>(V::largest_of));
  static_assert(offers<F(F)>(V::magnitude));

  // other dtypes
  static_assert(offers<F(const void*)>(V::read_halves));
  static_assert(offers<F(const void*)>(V::read_bfloats));
  static_assert(offers<F(const void*)>(V::read_unsigned));
  static_assert(offers<F(const void*)>(V::read_signed));
  static_assert(offers<void(void*, F)>(V::write_halves));
  static_assert(offers<void(void*, F)>(V::write_bfloats));
  static_assert(offers<void(int8_t*, F)>(V::write_bytes));

  // integers of 32 bits
  static_assert(offers<I(const int32_t*)>(V::read_ints));
  static_assert(offers<I(I, int)>(V::shift));
  static_assert(offers<I(I, int)>(V::mask_ints));
  static_assert(offers<I(I, int)>(V::shift_left));
  static_assert(offers<I(I, int)>(V::shift_signed));
  static_assert(offers<F(I)>(V::convert));
  static_assert(offers<I()>(V::no_ints));
  static_assert(offers<I(I, I)>(V::add_ints));
  static_assert(offers<I(I, I)>(V::both));

  // tables of numbers
  static_assert(offers<T(const float*)>(V::table));
  static_assert(offers<T(const void*)>(V::table_of_halves));
  static_assert(offers<F(T, I)>(V::template lookup<2>));
  static_assert(offers<F(T, I)>(V::template lookup<4>));
  static_assert(offers<F(const float*, I)>(V::spread));
  static_assert(offers<W(I, int)>(V::where));
  static_assert(offers<F(F, W, F)>(V::add_where));
  static_assert(offers<F(W, F, F)>(V::choose));

  // bytes
  static_assert(offers<I(const void*)>(V::read_bytes));
  static_assert(offers<I(const uint8_t*, int64_t)>(V::read_pieces));
  static_assert(offers<void(void*, I)>(V::store_bytes));
  static_assert(offers<I(int)>(V::set_bytes));
  static_assert(offers<I(I, uint64_t, int)>(V::mark));
  static_assert(offers<I(I)>(V::high_nibbles));
  static_assert(offers<I(I, I)>(V::look_bytes));
  static_assert(offers<I(I, I, I)>(V::dot));
  static_assert(offers<I(const uint8_t*)>(V::byte_table));
  static_assert(offers<I(const uint8_t*)>(V::index));
  static_assert(offers<I(const uint8_t*)>(V::template octets<1>));
  static_assert(offers<I(const uint8_t*)>(V::template octets<3>));
  static_assert(offers<I(const uint8_t*, int64_t, const int32_t*)>(V::byte_tables));
  static_assert(offers<void(const uint8_t*, I*)>(V::template odd<3>));
  static_assert(offers<void(const float*, float, float, uint8_t*, uint8_t*)>(V::write_table));

  return true;
}

// The Walsh-Hadamard transform of the numbers of a vector
template <class V>
constexpr bool keeps_mix_rules(typename V::Floats (*)(typename V::Floats)) {
  return true;
}

}  // namespace
}  // namespace bivlm

namespace bivlm::trellis {
namespace {

template <class T>
constexpr bool keeps_tile_rules() {
  constexpr int kDigits = T::kFloatDigits;
  static_assert(kDigits >= 1 && kDigits <= 4, "digits of an input that is not rounded");
  static_assert(T::slot_bytes(1) > 0 && T::slot_bytes(kDigits) >= T::slot_bytes(1));
  static_assert(offers<int64_t(const bivlm_trellis&)>(T::table_bytes));
  static_assert(offers<void(const Task&, uint8_t*)>(T::prepare_tables));
  static_assert(
      offers<void(const Task&, const uint8_t*, int, int64_t, const uint8_t*, uint8_t*)>(T::decode));
  static_assert(offers<float(const float*, uint8_t*, int32_t*)>(T::template digits<1>));
  static_assert(offers<float(const float*, uint8_t*, int32_t*)>(T::template digits<kDigits>));
  static_assert(
      offers<void(const uint8_t*, int64_t, const uint8_t*, const int32_t*, const float*, float*)>(
          T::template multiply<kDigits, 4>));
  return true;
}

}  // namespace
}  // namespace bivlm::trellis
