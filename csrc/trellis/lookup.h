// Weights of a trellis looked up one after the other, for every window and instruction set; and the
// form in which the products take weights.
//
// A tile holds 64 rows of up to 128 columns: bytes (column / 4, row, column % 4), value + 128. The
// windows of neighbouring rows overlap, so that for windows of 8 bits a table gives several rows at
// once: four from 11 or 14 bits with K = 1 or 2, two from 11 or 12 bits with K = 3 or 4.
#pragma once

#include "loops.h"
#include "trellis/task.h"
#include "trellis/weight.h"

namespace bivlm::trellis {
namespace {

constexpr int64_t kTileRuns = 8, kTileColumns = kTileRuns * kRun,
                  kTileBytes = kTileColumns * kStrip;
constexpr int64_t kQuadBytes = 4 * kStrip;  // of a tile; a quad is four neighbouring columns
constexpr uint32_t kMiddles = 0x80808080;   // 128 in every byte

constexpr int rows_at_once(int window, int bits) { return window > 8 ? 1 : bits <= 2 ? 4 : 2; }
constexpr int index_bits(int window, int bits) {
  return window + (rows_at_once(window, bits) - 1) * bits;
}

// Bytes of the table for `bits` bits; windows of more than 8 bits are looked up in the weight's own
// tables.
constexpr int64_t lookup_bytes(int window, int bits) {
  return window > 8 ? 0 : (int64_t(1) << index_bits(window, bits)) * rows_at_once(window, bits);
}

inline bool has_bits(const Task& task, int bits) {
  for (int64_t i = 0; i < task.run_count; ++i) {
    if (task.runs[i].bits == bits) return true;
  }
  return false;
}

// Where the table for `bits` bits begins; for 5, the bytes of all
inline int64_t lookup_offset(int window, int bits) {
  int64_t offset = 0;
  for (int k = 1; k < bits; ++k) offset += lookup_bytes(window, k);
  return offset;
}

// Entry i, row r in byte r: the value + 128 for the window that begins at bit r * kBits of i
template <int kBits>
inline void set_lookup(const int8_t* values, uint8_t* out) {
  constexpr uint32_t kPairs = 1u << (8 + kBits), kApart = 1u << (2 * kBits);
  uint8_t middle[256];
  for (int i = 0; i < 256; ++i) middle[i] = uint8_t(values[i]) ^ 0x80;
  uint16_t pairs[kPairs];
  for (uint32_t i = 0; i < kPairs; ++i)
    pairs[i] = uint16_t(middle[i & 255] | middle[i >> kBits] << 8);
  if constexpr (rows_at_once(8, kBits) == 2) {
    std::memcpy(out, pairs, sizeof pairs);
  } else {
    uint32_t* fours = reinterpret_cast<uint32_t*>(out);
    for (uint32_t upper = 0; upper < kPairs; ++upper) {
      const uint16_t* lower = pairs + upper * kApart % kPairs;
      for (uint32_t i = 0; i < kApart; ++i)
        fours[upper * kApart + i] = lower[i] | uint32_t(pairs[upper]) << 16;
    }
  }
}

inline void set_lookups(const Task& task, uint8_t* out) {
  const bivlm_trellis& w = *task.weight;
  if (w.window > 8) return;
  if (has_bits(task, 1)) set_lookup<1>(w.table, out);
  if (has_bits(task, 2)) set_lookup<2>(w.table + w.table_stride, out + lookup_offset(8, 2));
  if (has_bits(task, 3)) set_lookup<3>(w.table + 2 * w.table_stride, out + lookup_offset(8, 3));
  if (has_bits(task, 4)) set_lookup<4>(w.table + 3 * w.table_stride, out + lookup_offset(8, 4));
}

// Where in its table the entry for rows kRow and on of a column lies that begins at p, in bytes
template <int kWindow, int kBits, int kRow>
inline uint32_t entry_at(const uint8_t* p) {
  constexpr int kWidth = index_bits(kWindow, kBits), kBegin = (kRow + 1) * kBits - kWindow + 64,
                kByte = kBegin / 8 - 8, kFirst = kBegin % 8;
  constexpr int kSize = rows_at_once(kWindow, kBits),
                kShift = kFirst - (kSize == 4   ? 2
                                   : kSize == 2 ? 1
                                                : 0);  // kSize is also the size of an entry
  constexpr uint32_t kMask = ((1u << kWidth) - 1) * kSize;
  const uint32_t word =
      kFirst + kWidth <= 16 ? load<uint16_t>(p + kByte, 0) : load<uint32_t>(p + kByte, 0);
  return (kShift < 0 ? word << -kShift : word >> kShift) & kMask;
}

template <class Entry, int kWindow, int kBits, int kRow>
inline uint32_t entry_of(const uint8_t* p, const uint8_t* table) {
  return load<Entry>(table + entry_at<kWindow, kBits, kRow>(p), 0);
}

template <int kWindow, int kBits, int kRow>
inline void look_row(const uint8_t* a, const uint8_t* b, const uint8_t* c, const uint8_t* d,
                     const uint8_t* table, uint8_t* out) {
  const uint32_t low = entry_of<uint8_t, kWindow, kBits, kRow>(a, table) |
                       entry_of<uint8_t, kWindow, kBits, kRow>(b, table) << 8;
  const uint32_t high = entry_of<uint8_t, kWindow, kBits, kRow>(c, table) |
                        entry_of<uint8_t, kWindow, kBits, kRow>(d, table) << 8;
  store(out, 0, (low | high << 16) ^ kMiddles);
}

// Four rows of a quad, from row kRow on; the columns begin at p and every kStep bytes later.
template <class Turn, int kWindow, int kBits, int kRow>
inline void look_rows(const uint8_t* p, const uint8_t* table, uint8_t* out) {
  constexpr int64_t kStep = kStrip * kBits / 8;
  const uint8_t *a = p, *b = p + kStep, *c = p + 2 * kStep, *d = p + 3 * kStep;
  if constexpr (rows_at_once(kWindow, kBits) == 4) {
    Turn::fours(entry_of<uint32_t, kWindow, kBits, kRow>(a, table),
                entry_of<uint32_t, kWindow, kBits, kRow>(b, table),
                entry_of<uint32_t, kWindow, kBits, kRow>(c, table),
                entry_of<uint32_t, kWindow, kBits, kRow>(d, table), out);
  } else if constexpr (rows_at_once(kWindow, kBits) == 2) {
    Turn::pairs(entry_of<uint16_t, kWindow, kBits, kRow>(a, table),
                entry_of<uint16_t, kWindow, kBits, kRow>(b, table),
                entry_of<uint16_t, kWindow, kBits, kRow>(c, table),
                entry_of<uint16_t, kWindow, kBits, kRow>(d, table),
                entry_of<uint16_t, kWindow, kBits, kRow + 2>(a, table),
                entry_of<uint16_t, kWindow, kBits, kRow + 2>(b, table),
                entry_of<uint16_t, kWindow, kBits, kRow + 2>(c, table),
                entry_of<uint16_t, kWindow, kBits, kRow + 2>(d, table), out);
  } else {
    look_row<kWindow, kBits, kRow>(a, b, c, d, table, out);
    look_row<kWindow, kBits, kRow + 1>(a, b, c, d, table, out + 4);
    look_row<kWindow, kBits, kRow + 2>(a, b, c, d, table, out + 8);
    look_row<kWindow, kBits, kRow + 3>(a, b, c, d, table, out + 12);
  }
}

// `quads` quads of columns with kBits bits; eight rows are kBits bytes
template <class Turn, int kWindow, int kBits>
inline void look_up(const uint8_t* p, int64_t quads, const uint8_t* table, uint8_t* tile) {
  for (int64_t q = 0; q < quads; ++q, p += 4 * kStrip * kBits / 8) {
    for (int64_t row = 0; row < kStrip; row += 8, tile += 32) {
      look_rows<Turn, kWindow, kBits, 0>(p + row * kBits / 8, table, tile);
      look_rows<Turn, kWindow, kBits, 4>(p + row * kBits / 8, table, tile + 16);
    }
  }
}

template <class Turn, int kWindow>
inline void look_up(const Task& task, const uint8_t* p, int bits, int64_t quads,
                    const uint8_t* lookups, uint8_t* tile) {
  const int8_t* own = task.weight->table + (bits - 1) * task.weight->table_stride;
  const uint8_t* table =
      kWindow == 8 ? lookups + lookup_offset(8, bits) : reinterpret_cast<const uint8_t*>(own);
  switch (bits) {
    case 1:
      return look_up<Turn, kWindow, 1>(p, quads, table, tile);
    case 2:
      return look_up<Turn, kWindow, 2>(p, quads, table, tile);
    case 3:
      return look_up<Turn, kWindow, 3>(p, quads, table, tile);
    default:
      return look_up<Turn, kWindow, 4>(p, quads, table, tile);
  }
}

// How rows that were looked up together are put into a tile. Every number has neighbouring rows of
// one column, the first lowest: four rows, or two; with two, the next two rows of all columns
// follow.
struct PlainTurn {
  static void fours(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint8_t* out) {
    constexpr uint32_t kEven = 0x00ff00ff;
    const uint32_t even_ab = (a & kEven) | (b & kEven) << 8,
                   odd_ab = (a >> 8 & kEven) | (b & ~kEven);
    const uint32_t even_cd = (c & kEven) | (d & kEven) << 8,
                   odd_cd = (c >> 8 & kEven) | (d & ~kEven);
    store(out, 0, (even_ab & 0xffff) | even_cd << 16);
    store(out, 1, (odd_ab & 0xffff) | odd_cd << 16);
    store(out, 2, even_ab >> 16 | (even_cd & 0xffff0000));
    store(out, 3, odd_ab >> 16 | (odd_cd & 0xffff0000));
  }
  static void pairs(uint32_t a, uint32_t b, uint32_t c, uint32_t d, uint32_t e, uint32_t f,
                    uint32_t g, uint32_t h, uint8_t* out) {
    fours(a | e << 16, b | f << 16, c | g << 16, d | h << 16, out);
  }
};

}  // namespace
}  // namespace bivlm::trellis
