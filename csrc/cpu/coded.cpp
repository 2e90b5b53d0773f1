#include "coded.h"

#include <algorithm>
#include <optional>

#include "codec_loops.h"

namespace torchclip::cpu {
namespace {

// Elements that are decoded, updated and encoded together: whole blocks, and whole pieces of what is drawn for. With
// twice as many a step takes a seventh longer: the processor fetches no further ahead while they are updated.
constexpr int64_t kCodedPiece = 256;
static_assert(kCodedPiece % kBlock == 0 && kCodedPiece % kPiece == 0 && kNormBlock % kBlock == 0);

constexpr int kRoundingStreams = 2;  // of all operands, two to a stream
static_assert(kMaxSlots + 1 <= 2 * kRoundingStreams);

char* at(void* memory, int64_t offset) { return static_cast<char*>(memory) + offset; }

// The words of a piece that its operands are rounded by.
class RoundingWords {
 public:
  RoundingWords(const Work& work, const Types& types) {
    const auto open = [&](int operand, const Codec& codec) {
      const uint32_t index = static_cast<uint32_t>(operand) / 2;
      if (codec.form != Form::kStochastic || streams_[index].has_value()) return;
      const Extras& extras = work.tables.extras;
      streams_[index].emplace(extras.seed, extras.step, work.place().number,
                              static_cast<Stream>(kRoundingStream + index));
    };
    open(0, types.parameter);
    for (int slot = 0; slot < kMaxSlots; ++slot) open(slot + 1, types.slots[slot]);
  }
  // Of the `count` elements from that number on.
  void draw(const DrawPlace& place, int64_t begin, int64_t count) {
    for (int index = 0; index < kRoundingStreams; ++index)
      if (streams_[index].has_value()) fill(*streams_[index], place, begin, count, words_[index]);
  }
  void round(int operand, const float* values, int64_t count, BFloat16* stored) const {
    round_stochastic(values, words_[operand / 2], 16 * (operand % 2), count, stored);
  }

 private:
  // Words are drawn in grains of the whole tensor, of which a shard has its parts.
  static void fill(const WordStream& stream, const DrawPlace& place, int64_t begin, int64_t count, uint32_t* words) {
    if (place.inner == 0 && place.of(begin) % kDrawGrain == 0) return stream.fill(place.of(begin), kCodedPiece, words);
    uint32_t drawn[kCodedPiece + 2 * kDrawGrain];
    for (int64_t done = 0; done < count;) {
      const int64_t first = place.of(begin + done), together = place.together(begin + done, count - done);
      const int64_t before = first % kDrawGrain;
      stream.fill(first - before, (before + together + kDrawGrain - 1) / kDrawGrain * kDrawGrain, drawn);
      std::copy_n(drawn + before, static_cast<size_t>(together), words + done);
      done += together;
    }
  }
  std::optional<WordStream> streams_[kRoundingStreams];
  alignas(64) uint32_t words_[kRoundingStreams][kCodedPiece];
};

// Float32 of an operand: where it lies, or in the buffer.
float* decoded(DType dtype, void* stored, int64_t count, float* buffer) {
  if (dtype == DType::kFloat32) return static_cast<float*>(stored);
  if (dtype == DType::kBFloat16) {
    widen(static_cast<const BFloat16*>(stored), count, buffer);
  } else {
    widen(static_cast<const Float16*>(stored), count, buffer);
  }
  return buffer;
}

void round_to(DType dtype, const float* values, int64_t count, void* stored) {
  if (dtype == DType::kBFloat16) {
    round_nearest(values, count, static_cast<BFloat16*>(stored));
  } else if (dtype == DType::kFloat16) {
    round_nearest(values, count, static_cast<Float16*>(stored));
  }
}

int64_t zeros_in(DType dtype, const void* stored, int64_t count) {
  if (dtype == DType::kBFloat16) return count_zeros(static_cast<const BFloat16*>(stored), count);
  if (dtype == DType::kFloat16) return count_zeros(static_cast<const Float16*>(stored), count);
  return count_zeros(static_cast<const float*>(stored), count);
}

// A part of a run: `offset` elements from its first.
class Piece {
 public:
  Piece(const Work& work, const Run& run, int64_t offset, int64_t count)
      : types_(work.loops.types), slots_(work.bucket.slots), count_(count) {
    const auto move = [&](int operand, int64_t size) {
      void* const memory = run.operands.pointer[operand];
      stored_[operand] = memory == nullptr ? nullptr : at(memory, offset * size);
    };
    for (int operand = 0; operand < kOperands; ++operand) move(operand, work.stored_size_of(operand));
    if (run.beside != nullptr) beside_ = at(run.beside, offset * work.beside_size());
    for (int slot = 0; slot < kMaxSlots; ++slot)
      if (is_blocks(types_.slots[slot].form)) absmax_[slot] = run.absmax[slot] + (run.begin + offset) / kBlock;
  }

  float* parameter(float* buffer, bool reads) const {
    const Codec& codec = types_.parameter;
    if (codec.form == Form::kMaster) return static_cast<float*>(beside_);
    if (codec.dtype == DType::kFloat32) return static_cast<float*>(stored_[kParameter]);
    if (!reads) return buffer;
    if (codec.form != Form::kSplit) return decoded(codec.dtype, stored_[kParameter], count_, buffer);
    join_all(static_cast<const BFloat16*>(stored_[kParameter]), static_cast<const int16_t*>(beside_), count_, buffer);
    return buffer;
  }
  float* gradient(float* buffer) const { return decoded(types_.gradient, stored_[kGradient], count_, buffer); }
  // Null where the slot is not in use.
  float* slot(int number, float* buffer) const {
    if ((slots_ >> number & 1u) == 0) return nullptr;
    const Codec& codec = types_.slots[number];
    void* const stored = stored_[kState0 + number];
    if (!is_blocks(codec.form)) return decoded(codec.dtype, stored, count_, buffer);
    decode_blocks(static_cast<const uint8_t*>(stored), absmax_[number], codec.form == Form::kBlocks, count_, buffer);
    return buffer;
  }
  void* slow() const { return stored_[kSlow]; }

  void store_parameter(const float* values, const RoundingWords& words) const {
    const Codec& codec = types_.parameter;
    BFloat16* const halves = static_cast<BFloat16*>(stored_[kParameter]);
    if (codec.form == Form::kSplit) return split_all(values, count_, halves, static_cast<int16_t*>(beside_));
    if (codec.form == Form::kStochastic) return words.round(0, values, count_, halves);
    round_to(codec.dtype, values, count_, stored_[kParameter]);
  }
  void store_slot(int number, const float* values, const RoundingWords& words) const {
    const Codec& codec = types_.slots[number];
    void* const stored = stored_[kState0 + number];
    if (is_blocks(codec.form))
      return encode_blocks(values, codec.form == Form::kBlocks, count_, static_cast<uint8_t*>(stored), absmax_[number]);
    if (codec.form == Form::kStochastic) return words.round(number + 1, values, count_, static_cast<BFloat16*>(stored));
    round_to(codec.dtype, values, count_, stored);
  }
  int64_t zeros() const { return zeros_in(types_.parameter.dtype, stored_[kParameter], count_); }

 private:
  const Types& types_;
  unsigned slots_;
  int64_t count_;
  void* stored_[kOperands];
  void* beside_ = nullptr;
  float* absmax_[kMaxSlots] = {};
};

// One loop for codecs and rule, of a split parameter beside state that is all in one type, rounded to nearest.
SplitLoop split_loop(const char* rule, Bucket bucket, const Types& types) {
  if (types.parameter.form != Form::kSplit || types.gradient != DType::kBFloat16) return nullptr;
  bool is_first = true;
  for (int slot = 0; slot < kMaxSlots; ++slot) {
    if ((bucket.slots >> slot & 1u) == 0) continue;
    const Codec& codec = types.slots[slot];
    if (codec.form != Form::kNearest || (!is_first && codec.dtype != bucket.state_dtype)) return nullptr;
    bucket.state_dtype = codec.dtype;
    is_first = false;
  }
  return find_split_loop(rule, bucket);
}

template <class T>
float as_stored(float value) {
  return load(store<T>(value));
}

template <class T>
void synchronise_rounded(void* slow, int64_t count, double alpha, void* parameter) {
  float *const held = static_cast<float*>(slow), *const values = static_cast<float*>(parameter);
  for (int64_t i = 0; i < count; ++i)
    values[i] = held[i] = synchronise(held[i], as_stored<T>(values[i]), static_cast<float>(alpha));
}

template <class T>
void average_rounded(void* average, int64_t count, double alpha, void* parameter) {
  float* const held = static_cast<float*>(average);
  const float* const values = static_cast<const float*>(parameter);
  for (int64_t i = 0; i < count; ++i)
    held[i] = synchronise(held[i], as_stored<T>(values[i]), static_cast<float>(alpha));
}

// Returns how many elements that were.
int64_t update_blocks(const Work& work, const Run& run) {
  Operands whole = run.operands;
  whole.count = run.operands.count / kBlock * kBlock;
  float* absmax[kMaxSlots] = {};
  for (int slot = 0; slot < kMaxSlots; ++slot)
    if (run.absmax[slot] != nullptr) absmax[slot] = run.absmax[slot] + run.begin / kBlock;
  work.loops.update_blocks(whole, run.beside, absmax, work.coefficients);
  return whole.count;
}

}  // namespace

int64_t update_coded(const Work& work, const Run& run, bool counts_zeros) {
  const bool is_plain = !work.in_pieces() && !work.has_row_factors();
  if (is_plain && work.loops.update_split != nullptr)
    return work.loops.update_split(run.operands, run.beside, work.coefficients);
  const bool has_blocks = is_plain && work.loops.update_blocks != nullptr && run.operands.count >= kBlock;
  const int64_t in_blocks = has_blocks ? update_blocks(work, run) : 0;
  alignas(64) float buffers[kOperands][kCodedPiece];
  RoundingWords words(work, work.loops.types);
  const DrawPlace place = work.place();
  int64_t zeros = 0;
  for (int64_t offset = in_blocks; offset < run.operands.count; offset += kCodedPiece) {
    Operands values;
    values.count = std::min(kCodedPiece, run.operands.count - offset);
    const Piece piece(work, run, offset, values.count);
    values.pointer[kParameter] = piece.parameter(buffers[kParameter], !work.loops.writes_only);
    values.pointer[kGradient] = piece.gradient(buffers[kGradient]);
    for (int slot = 0; slot < kMaxSlots; ++slot)
      values.pointer[kState0 + slot] = piece.slot(slot, buffers[kState0 + slot]);
    values.pointer[kSlow] = piece.slow();
    update_run(work, values, run.begin + offset);
    words.draw(place, run.begin + offset, values.count);
    piece.store_parameter(static_cast<const float*>(values.pointer[kParameter]), words);
    for (int slot = 0; slot < kMaxSlots; ++slot)
      if (values.pointer[kState0 + slot] != nullptr)
        piece.store_slot(slot, static_cast<const float*>(values.pointer[kState0 + slot]), words);
    if (counts_zeros) zeros += piece.zeros();
  }
  return zeros;
}

// A norm block at a time, so that the sums are those of float32 operands to the bit.
void measure_coded(const Work& work, Measure measure, bool by_rows, const Run& run, int64_t first_row,
                   Partial* partials) {
  alignas(64) float buffers[kSlow][kNormBlock];
  const bool seen = measure == Measure::kDirection;
  const bool decays = (work.bucket.stages & kCoupledDecay) != 0;
  for (int64_t offset = 0; offset < run.operands.count; offset += kNormBlock) {
    Operands values;
    values.count = std::min(kNormBlock, run.operands.count - offset);
    const Piece piece(work, run, offset, values.count);
    values.pointer[kGradient] = piece.gradient(buffers[kGradient]);
    if (measure == Measure::kWeight || (seen && decays))
      values.pointer[kParameter] = piece.parameter(buffers[kParameter], true);
    for (int slot = 0; seen && slot < kMaxSlots; ++slot)
      values.pointer[kState0 + slot] = piece.slot(slot, buffers[kState0 + slot]);
    measure_run(work, measure, by_rows, values, run.begin + offset, first_row, partials);
  }
}

Loops find_coded_loops(const char* rule, const Bucket& bucket, const Types& types) {
  Loops loops = find_loops(rule, bucket);
  loops.is_coded = true;
  loops.types = types;
  loops.update_split = split_loop(rule, bucket, types);
  loops.update_blocks = find_block_loop(rule, bucket, types);
  // Lookahead and WeightEMA begin with what a later step will find, where that is known before bits are drawn.
  if (types.parameter.form != Form::kNearest || types.parameter.dtype == DType::kFloat32) return loops;
  const bool is_bfloat16 = types.parameter.dtype == DType::kBFloat16;
  loops.synchronise = is_bfloat16 ? synchronise_rounded<BFloat16> : synchronise_rounded<Float16>;
  loops.average = is_bfloat16 ? average_rounded<BFloat16> : average_rounded<Float16>;
  return loops;
}

}  // namespace torchclip::cpu
