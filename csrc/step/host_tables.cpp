#include "host_tables.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace torchclip {
namespace {

constexpr int64_t kSmallestChunk = 4096;
constexpr int64_t kLargestChunk = 65536;
constexpr int64_t kChunksWanted = 2048;  // several for each block that an H200 holds

// From the total alone, so that the partial sums do not depend on the device.
int64_t chunk_size(int64_t elements) {
  return std::clamp(elements / kChunksWanted / kChunkGrain * kChunkGrain, kSmallestChunk, kLargestChunk);
}

class Builder {
 public:
  Builder(const RuleEntry& rule, const ParameterReader& reader, const Shape& shape, const Cutting& cutting,
          const std::vector<size_t>& positions, const Sharing& sharing)
      : rule_(rule), reader_(reader), shape_(shape), cutting_(cutting), sharing_(sharing) {
    tables_.positions = positions;
  }

  HostTables build() {
    int64_t elements = 0;
    for (const size_t position : tables_.positions) {
      add_tensor(position);
      elements += tables_.tensors.back().numel;
    }
    size_ = chunk_size(elements);
    sort_runs();
    tables_.clip_units = units(shape_.clip_scope);
    tables_.rule_units = units(shape_.rule_scope);
    add_chunks();
    if (shape_.by_rows()) add_row_chunks();
    tables_.row_unit = {0, static_cast<int32_t>(tables_.row_chunks.size())};
    if (shape_.threshold_scales) add_zero_ranges();
    return std::move(tables_);
  }

 private:
  void add_tensor(size_t position) {
    const ParameterRecord& record = reader_.records()[position];
    DeviceTensor tensor{};
    tensor.numel = record.operands.count;
    tensor.parameter = static_cast<int32_t>(position);
    tensor.coefficients = coefficients_of(position);
    tensor.place = sharing_.places.empty() ? DrawPlace{static_cast<uint32_t>(position)} : sharing_.places[position];
    if (shape_.by_rows() && record.extra != nullptr) add_rows(record, tensor);
    tables_.layout_offsets.push_back(record.layout == nullptr ? -1 : static_cast<int64_t>(tables_.layouts.size()));
    if (record.layout != nullptr) add_layout(record, tensor);
    if (reader_.holding().is_given()) tables_.beside.push_back({});  // addresses come with each step
    add_bytes(record);
    runs_of_tensors_.push_back(run_of(record));
    tables_.tensors.push_back(tensor);
  }

  void add_rows(const ParameterRecord& record, DeviceTensor& tensor) {
    const bool sums = shape_.rule_rows && static_cast<bool>(record.extra->sums);
    if (shape_.clips_rows || sums) tensor.rows = record.extra->rows;
    tensor.first_row = tables_.row_total;
    tensor.sum_is_double = record.extra->sum_is_double ? 1 : 0;
    tables_.row_total += tensor.rows.count;
  }

  void add_bytes(const ParameterRecord& record) {
    const int64_t numel = record.operands.count;
    const Types* const types = coded_types(record);
    int64_t gradient = element_size(record.dtype), others = gradient, slot_size = element_size(record.state_dtype);
    if (types != nullptr) {
      gradient = element_size(types->gradient);
      others = types->parameter.element_size();
      if (reader_.holding().keeps_beside()) others += types->parameter.form == Form::kSplit ? 2 : 4;
    }
    for (int slot = 0; slot < kMaxSlots; ++slot)
      if ((record.used_slots >> slot & 1u) != 0)
        others += types == nullptr ? slot_size : types->slots[slot].element_size();
    tables_.bytes += numel * (gradient + others);
    tables_.gradient_bytes += numel * gradient;
  }

  void add_layout(const ParameterRecord& record, DeviceTensor& tensor) {
    const StridedLayout& layout = *record.layout;
    tensor.dimensions = static_cast<int32_t>(layout.sizes.size());
    const auto put = [&](const std::vector<int64_t>& numbers) {
      tables_.layouts.insert(tables_.layouts.end(), numbers.begin(), numbers.end());
      tables_.layouts.resize(tables_.layouts.size() + layout.sizes.size() - numbers.size());  // of an absent operand
    };
    put(layout.sizes);
    for (const std::vector<int64_t>& strides : layout.strides) put(strides);
    if (reader_.holding().keeps_beside()) put(record.extra->codecs.memory.strides);
  }

  // Which coefficients a tensor has: those of its group, or its own.
  int32_t coefficients_of(size_t position) {
    const ParameterRecord& record = reader_.records()[position];
    const auto unit = [&](Scope scope) {
      return static_cast<int32_t>(unit_of(scope, record.group, static_cast<int32_t>(position)));
    };
    if (!shape_.coefficients_per_tensor && !tables_.sources.empty() && tables_.sources.back().group == record.group)
      return static_cast<int32_t>(tables_.sources.size()) - 1;
    CoefficientSource source{};
    for (size_t i = 0; i < rule_.scalars.size(); ++i) source.scalar_is_double[i] = record.scalar_is_double[i] ? 1 : 0;
    source.group = record.group;
    source.clip_unit = shape_.clips_norms ? unit(shape_.clip_scope) : -1;
    source.rule_unit = unit(shape_.rule_scope);
    source.fresh = shape_.fresh ? static_cast<int32_t>(position) : -1;
    tables_.sources.push_back(source);
    return static_cast<int32_t>(tables_.sources.size()) - 1;
  }

  size_t run_of(const ParameterRecord& record) {
    const unsigned stages = shape_.stages[static_cast<size_t>(record.group)] | (shape_.by_rows() ? kRowFactors : 0u);
    const Bucket bucket{0, record.dtype, record.state_dtype, record.used_slots, stages};
    const bool is_measured = shape_.measures(record.group);
    const Access access = access_of(record);
    const Types* const coded = coded_types(record);
    const Types types = coded == nullptr ? Types{} : *coded;
    const auto same = [&](const Run& run) {
      return run.bucket == bucket && run.is_measured == is_measured && run.access == access &&
             run.is_coded == (coded != nullptr) && run.types == types;
    };
    const auto found = std::find_if(tables_.runs.begin(), tables_.runs.end(), same);
    if (found != tables_.runs.end()) return static_cast<size_t>(found - tables_.runs.begin());
    tables_.runs.push_back({bucket, is_measured, access, coded != nullptr, types});
    return tables_.runs.size() - 1;
  }

  Access access_of(const ParameterRecord& record) {
    if (!cutting_.by_access) return Access::kAnyhow;
    tables_.aligned.push_back(is_aligned(record, shape_.lookahead) ? 1 : 0);
    if (record.layout != nullptr) return Access::kStrided;
    return tables_.aligned.back() != 0 ? Access::kAligned : Access::kAnyhow;
  }

  int32_t pieces_of(int64_t count, DType dtype) const {
    return static_cast<int32_t>((count * element_size(dtype) + cutting_.piece_bytes - 1) / cutting_.piece_bytes);
  }

  // Runs whose norms one launch can take, those of a type that are measured, follow one another.
  void sort_runs() {
    std::vector<size_t> order(tables_.runs.size()), places(tables_.runs.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(), [this](size_t a, size_t b) {
      const Run &one = tables_.runs[a], &other = tables_.runs[b];
      if (one.gradient_dtype() != other.gradient_dtype()) return one.gradient_dtype() < other.gradient_dtype();
      if (one.is_measured != other.is_measured) return one.is_measured;
      return one.access < other.access;
    });
    std::vector<Run> runs;
    for (size_t place = 0; place < order.size(); ++place) {
      places[order[place]] = place;
      runs.push_back(tables_.runs[order[place]]);
    }
    tables_.runs = std::move(runs);
    for (size_t& run : runs_of_tensors_) run = places[run];
  }

  // Where the partial sums of each unit begin, in the order of the parameters.
  std::vector<int32_t> units(Scope scope) const {
    std::vector<int32_t> begins(unit_count(scope, reader_) + 1, 0);
    for (const DeviceTensor& tensor : tables_.tensors) {
      const size_t unit =
          unit_of(scope, reader_.records()[static_cast<size_t>(tensor.parameter)].group, tensor.parameter);
      begins[unit + 1] += static_cast<int32_t>((tensor.numel + size_ - 1) / size_);
    }
    for (size_t unit = 1; unit < begins.size(); ++unit) begins[unit] += begins[unit - 1];
    return begins;
  }

  // Partial sums are numbered in the order of the parameters; chunks lie in the order of the runs.
  void add_chunks() {
    std::vector<std::vector<DeviceChunk>> by_run(tables_.runs.size());
    int32_t partial = 0;
    for (size_t index = 0; index < tables_.tensors.size(); ++index) {
      const int64_t numel = tables_.tensors[index].numel;
      for (int64_t begin = 0; begin < numel; begin += size_) {
        const int32_t count = static_cast<int32_t>(std::min(size_, numel - begin));
        by_run[runs_of_tensors_[index]].push_back({static_cast<int32_t>(index), count, partial++, begin});
      }
    }
    for (size_t index = 0; index < by_run.size(); ++index) {
      Run& run = tables_.runs[index];
      run.first_piece = index == 0 ? 0 : tables_.runs[index - 1].end_piece();
      run.first = static_cast<int64_t>(tables_.chunks.size());
      run.count = static_cast<int64_t>(by_run[index].size());
      for (const DeviceChunk& chunk : by_run[index])
        run.pieces = std::max(run.pieces, pieces_of(chunk.count, run.bucket.parameter_dtype));
      tables_.chunks.insert(tables_.chunks.end(), by_run[index].begin(), by_run[index].end());
    }
  }

  // Parameters lie in the order of their groups, so that each run has one range of a group.
  void add_zero_ranges() {
    std::vector<std::vector<ZeroRange>> by_group(reader_.groups().size());
    tables_.group_elements.assign(by_group.size(), 0.0);
    tables_.first_pieces.assign(tables_.tensors.size(), -1);
    for (const ParameterRecord& record : reader_.records())
      if (record.active)
        tables_.group_elements[static_cast<size_t>(record.group)] += static_cast<double>(record.operands.count);
    for (const Run& run : tables_.runs) {
      for (int64_t index = 0; index < run.count; ++index) {
        const DeviceChunk& chunk = tables_.chunks[static_cast<size_t>(run.first + index)];
        const int32_t position = tables_.tensors[static_cast<size_t>(chunk.tensor)].parameter;
        const size_t group = static_cast<size_t>(reader_.records()[static_cast<size_t>(position)].group);
        const int64_t first = run.first_piece + index * run.pieces;
        if (chunk.begin == 0) tables_.first_pieces[static_cast<size_t>(chunk.tensor)] = first;
        std::vector<ZeroRange>& ranges = by_group[group];
        if (ranges.empty() || ranges.back().first + ranges.back().count != first) ranges.push_back({first, 0});
        ranges.back().count += run.pieces;
      }
    }
    tables_.zero_begins = {0};
    for (const std::vector<ZeroRange>& ranges : by_group) {
      tables_.zero_ranges.insert(tables_.zero_ranges.end(), ranges.begin(), ranges.end());
      tables_.zero_begins.push_back(static_cast<int32_t>(tables_.zero_ranges.size()));
    }
  }

  void add_row_chunks() {
    std::vector<std::vector<DeviceRowChunk>> by_run(tables_.runs.size());
    int32_t partial = 0;
    for (size_t index = 0; index < tables_.tensors.size(); ++index) {
      const DeviceTensor& tensor = tables_.tensors[index];
      if (tensor.numel == 0) {
        // What others have in the rows counts here too.
        for (int64_t row = 0; splits_rows(tensor) && row < tensor.rows.count; ++row)
          tables_.long_rows.push_back({static_cast<int32_t>(index), partial, 0, row});
        continue;
      }
      std::vector<DeviceRowChunk>& chunks = by_run[runs_of_tensors_[index]];
      const int32_t number = static_cast<int32_t>(index);
      const int64_t count = std::max<int64_t>(tensor.rows.count, 1), length = tensor.numel / count;
      if (tensor.rows.count == 0 || length > size_ || splits_rows(tensor)) {
        for (int64_t row = 0; row < count; ++row) partial = cut_row(number, row, length, partial, chunks);
        continue;
      }
      const int64_t together = std::min(size_ / length, cutting_.rows_together);
      for (int64_t row = 0; row < count; row += together)
        chunks.push_back({number, static_cast<int32_t>(std::min(together, count - row)), partial++, -1, row, 0, 0});
    }
    for (size_t run = 0; run < by_run.size(); ++run) {
      tables_.runs[run].first_row = static_cast<int64_t>(tables_.row_chunks.size());
      tables_.runs[run].row_count = static_cast<int64_t>(by_run[run].size());
      tables_.row_chunks.insert(tables_.row_chunks.end(), by_run[run].begin(), by_run[run].end());
    }
  }

  bool splits_rows(const DeviceTensor& tensor) const {
    const size_t position = static_cast<size_t>(tensor.parameter);
    return (shape_.clips_rows && Sharing::splits_rows(sharing_.policy, position)) ||
           (shape_.rule_rows && Sharing::splits_rows(sharing_.rule, position));
  }

  // The parts of a row that is longer than a chunk or that other processes have parts of, or of a tensor without rows.
  // Returns the next partial sum.
  int32_t cut_row(int32_t tensor, int64_t row, int64_t length, int32_t partial, std::vector<DeviceRowChunk>& chunks) {
    int32_t long_row = -1;
    if (tables_.tensors[static_cast<size_t>(tensor)].rows.count > 0) {
      long_row = static_cast<int32_t>(tables_.long_rows.size());
      tables_.long_rows.push_back({tensor, partial, static_cast<int32_t>((length + size_ - 1) / size_), row});
    }
    for (int64_t begin = 0; begin < length; begin += size_)
      chunks.push_back({tensor, 0, partial++, long_row, row, begin, std::min(size_, length - begin)});
    return partial;
  }

  const RuleEntry& rule_;
  const ParameterReader& reader_;
  const Shape& shape_;
  const Cutting& cutting_;
  const Sharing& sharing_;
  HostTables tables_;
  std::vector<size_t> runs_of_tensors_;  // [tensors]
  int64_t size_ = 0;                     // of a chunk
};

}  // namespace

const Types* coded_types(const ParameterRecord& record) {
  return record.extra != nullptr && record.extra->codecs.is_coded ? &record.extra->codecs.types : nullptr;
}

bool is_aligned(const ParameterRecord& record, bool lookahead) {
  if (record.operands.count == 0) return true;
  uintptr_t bits = 0;
  for (const void* operand : record.operands.pointer) bits |= reinterpret_cast<uintptr_t>(operand);
  if (lookahead && record.extra != nullptr) bits |= reinterpret_cast<uintptr_t>(record.extra->slow_values);
  if (coded_types(record) != nullptr) bits |= reinterpret_cast<uintptr_t>(record.extra->codecs.memory.parameter);
  return bits % 16 == 0;
}

HostTables build_tables(const RuleEntry& rule, const ParameterReader& reader, const Shape& shape,
                        const Cutting& cutting, const std::vector<size_t>& positions, const Sharing& sharing) {
  return Builder(rule, reader, shape, cutting, positions, sharing).build();
}

}  // namespace torchclip
