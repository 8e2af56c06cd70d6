// The trellis kernels of one instruction set. A strip is decoded tile by tile, and every tile is
// multiplied with all tokens while it is in the first-level cache. Each tile has a chunk of inputs,
// which are rounded together.
//
// A file of an instruction set includes its vector.h and tiles.h, then this one (isa/generic.h).
// Everything here is that file's own: see numbers.h.
#pragma once

#include "isa/dtypes.h"
#include "trellis/lookup.h"

namespace bivlm::trellis {
namespace {

constexpr int64_t kSpare = 64;      // bytes beyond a strip that decoding may read
constexpr int64_t kTokensOnce = 4;  // tokens that share the reading of a tile

// The prepared inputs: for every chunk and token slots, a scale, and where the sums start
struct InputPlaces {
  int64_t slot_bytes, scales, starts, total;
  explicit InputPlaces(const Task& task) {
    const int64_t pieces = ceil_div(task.run_count, kTileRuns) * task.batch;
    slot_bytes = kTileColumns / 4 * Tiles::slot_bytes(task.rounded ? 1 : Tiles::kFloatDigits);
    scales = pieces * slot_bytes;
    starts = scales + round_up(pieces * int64_t(sizeof(float)), 64);
    total = starts + pieces * 4 * int64_t(sizeof(int32_t));
  }
};

// A strip to read from: a full one with kSpare bytes after it, and after the columns that its last
// run lacks
inline int64_t readable_bytes(const Task& task) {
  if (!task.run_count) return kLead;
  const Run& last = task.runs[task.run_count - 1];
  return task.strip_bytes + (kRun - last.columns) * last.bits * 8 + kSpare;
}

// A copy of a strip that is shorter, or too near to the end of the buffer. In the copy columns are
// as far apart as in a full strip; the two bytes before each column are those of the stream.
inline const uint8_t* whole_strip(const Task& task, int64_t strip, uint8_t* copy) {
  const bivlm_trellis& w = *task.weight;
  const int64_t held = held_rows(w, strip), begin = strip * task.strip_bytes,
                readable = readable_bytes(task);
  const uint8_t* stream = w.codes + begin;
  if (held == kStrip && begin + readable <= w.code_bytes) return stream;
  std::memset(copy, 0, size_t(readable));
  if (held == kStrip) {
    std::memcpy(copy, stream, size_t(task.strip_bytes));
    return copy;
  }
  for (int64_t i = 0; i < task.run_count; ++i) {
    const Run& run = task.runs[i];
    for (int64_t j = 0; j < run.columns; ++j) {
      const int64_t bits = run.before + j * run.bits;
      std::memcpy(copy + bits * kStrip / 8, stream + bits * held / 8,
                  size_t(kLead + run.bits * held / 8));
    }
  }
  return copy;
}

// Runs [first, last) into a tile, neighbours that have the same bits together
inline void decode_runs(const Task& task, const uint8_t* strip, int64_t first, int64_t last,
                        uint8_t* tile) {
  for (int64_t i = first; i < last;) {
    const Run& run = task.runs[i];
    int64_t end = i + 1;
    while (end < last && task.runs[end].bits == run.bits)
      ++end;  // what lies between them has no bits
    Tiles::decode(task, strip + kLead + run.before * kStrip / 8, run.bits, (end - i) * kRun / 4,
                  task.tables, tile + (i - first) * kRun * kStrip);
    i = end;
  }
}

inline Needs linear_needs(const Task& task) {
  return {Tiles::table_bytes(*task.weight), InputPlaces(task).total,
          kTileBytes + task.batch * kStrip * int64_t(sizeof(float)) + readable_bytes(task)};
}

inline void prepare_tables(const Task& task) { Tiles::prepare_tables(task, task.tables); }

inline void prepare_token(const Task& task, int64_t token, const float* x) {
  const InputPlaces places(task);
  alignas(64) float chunk[kTileColumns];
  for (int64_t first = 0; first < task.run_count; first += kTileRuns) {
    const int64_t piece = first / kTileRuns * task.batch + token,
                  count = smaller(kTileRuns, task.run_count - first);
    std::memset(chunk, 0, sizeof chunk);
    for (int64_t i = 0; i < count; ++i) {
      const Run& run = task.runs[first + i];
      std::memcpy(chunk + i * kRun, x + run.column, size_t(run.columns) * sizeof(float));
    }
    uint8_t* slots = task.inputs + piece * places.slot_bytes;
    int32_t* starts = reinterpret_cast<int32_t*>(task.inputs + places.starts) + 4 * piece;
    float* scale = reinterpret_cast<float*>(task.inputs + places.scales) + piece;
    *scale = task.rounded ? Tiles::digits<1>(chunk, slots, starts)
                          : Tiles::digits<Tiles::kFloatDigits>(chunk, slots, starts);
  }
}

// A tile times all tokens
template <int kDigits>
inline void multiply_tile(const Task& task, const InputPlaces& places, int64_t chunk,
                          const uint8_t* tile, int64_t quads, float* sums) {
  for (int64_t token = 0; token < task.batch; token += kTokensOnce) {
    const int64_t piece = chunk * task.batch + token;
    const uint8_t* slots = task.inputs + piece * places.slot_bytes;
    const int32_t* starts =
        reinterpret_cast<const int32_t*>(task.inputs + places.starts) + 4 * piece;
    const float* scales = reinterpret_cast<const float*>(task.inputs + places.scales) + piece;
    float* into = sums + token * kStrip;
    switch (smaller(kTokensOnce, task.batch - token)) {
      case 1:
        Tiles::multiply<kDigits, 1>(tile, quads, slots, starts, scales, into);
        break;
      case 2:
        Tiles::multiply<kDigits, 2>(tile, quads, slots, starts, scales, into);
        break;
      case 3:
        Tiles::multiply<kDigits, 3>(tile, quads, slots, starts, scales, into);
        break;
      default:
        Tiles::multiply<kDigits, 4>(tile, quads, slots, starts, scales, into);
    }
  }
}

inline void multiply(const Task& task, int64_t strip, uint8_t* scratch) {
  const bivlm_trellis& w = *task.weight;
  const InputPlaces places(task);
  uint8_t* tile = scratch;
  float* sums = reinterpret_cast<float*>(tile + kTileBytes);
  const uint8_t* stream =
      whole_strip(task, strip, reinterpret_cast<uint8_t*>(sums + task.batch * kStrip));
  std::memset(sums, 0, size_t(task.batch * kStrip) * sizeof(float));
  for (int64_t first = 0; first < task.run_count; first += kTileRuns) {
    const int64_t last = smaller(task.run_count, first + kTileRuns),
                  quads = (last - first) * kRun / 4;
    decode_runs(task, stream, first, last, tile);
    task.rounded
        ? multiply_tile<1>(task, places, first / kTileRuns, tile, quads, sums)
        : multiply_tile<Tiles::kFloatDigits>(task, places, first / kTileRuns, tile, quads, sums);
  }
  const int64_t begin = strip * kStrip, rows = smaller(kStrip, w.rows - begin);
  for (int64_t b = 0; b < task.batch; ++b) {
    for (int64_t i = 0; i < rows; ++i) {
      const float value = load<float>(w.row_scale, begin + i) * sums[b * kStrip + i];
      store_as(task.y, b * w.rows + begin + i,
               task.bias ? value + load_as(task.bias, begin + i, task.dtype) : value, task.dtype);
    }
  }
}

inline Bytes unpack_bytes(const Task& task) {
  return {Tiles::table_bytes(*task.weight), 2 * kTileBytes + readable_bytes(task)};
}

// A run of one row: bytes, value + 128, times a scale
inline void write_run(const uint8_t* values, int64_t columns, float scale, uint8_t* out,
                      int dtype) {
  const Vector::Floats factor = Vector::set(scale), middle = Vector::set(128);
  int64_t j = 0;
  for (; j + Vector::kLanes <= columns; j += Vector::kLanes) {
    const Vector::Floats v =
        Vector::mul(Vector::sub(Vector::read_unsigned(values + j), middle), factor);
    write_as(out, j, v, dtype);
  }
  for (; j < columns; ++j) store_as(out, j, (float(values[j]) - 128.0f) * scale, dtype);
}

inline void unpack(const Task& task, int64_t strip, int64_t begin, int64_t end, void* out,
                   int dtype, uint8_t* scratch) {
  const bivlm_trellis& w = *task.weight;
  uint8_t *tile = scratch, *turned = tile + kTileBytes;  // turned: (64 rows, 128 columns)
  const uint8_t* stream = whole_strip(task, strip, turned + kTileBytes);
  const int64_t size = element_bytes(dtype), step = w.columns * size, first_row = begin % kStrip,
                rows = end - begin;
  int64_t covered = 0;
  for (int64_t run = 0; run < task.run_count; ++run) covered += task.runs[run].columns;
  if (covered < w.columns) std::memset(out, 0, size_t(rows * step));
  for (int64_t first = 0; first < task.run_count; first += kTileRuns) {
    const int64_t last = smaller(task.run_count, first + kTileRuns),
                  quads = (last - first) * kRun / 4;
    decode_runs(task, stream, first, last, tile);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t q = 0; q < quads; ++q)
        store(turned + i * kTileColumns, q, load<uint32_t>(tile + q * kQuadBytes, first_row + i));
    }
    for (int64_t i = 0; i < rows; ++i) {
      const float scale = load<float>(w.row_scale, begin + i);
      for (int64_t r = first; r < last; ++r) {
        uint8_t* place = static_cast<uint8_t*>(out) + i * step + task.runs[r].column * size;
        write_run(turned + i * kTileColumns + (r - first) * kRun, task.runs[r].columns, scale,
                  place, dtype);
      }
    }
  }
}

constexpr Kernels generic = {linear_needs, prepare_tables, prepare_token,
                             multiply,     unpack_bytes,   unpack};

}  // namespace
}  // namespace bivlm::trellis
