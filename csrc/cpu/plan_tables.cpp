// The tables of a plan's passes: what depends on which parameters step, and on their geometry.
#include "plan.h"

namespace torchclip {

// Makes it where there is none yet. `types`: of operands that are coded.
size_t Plan::bucket_of(const Bucket& bucket, const Types* types) {
  for (size_t index = 0; index < tables_.buckets.size(); ++index) {
    const cpu::Loops& loops = loops_[index];
    const bool alike = types == nullptr ? !loops.is_coded : loops.is_coded && loops.types == *types;
    if (alike && tables_.buckets[index] == bucket) return index;
  }
  loops_.push_back(types == nullptr ? cpu::find_loops(rule_.name, bucket)
                                    : cpu::find_coded_loops(rule_.name, bucket, *types));
  if (loops_.back().update == nullptr)
    throw std::logic_error(std::string("no loop is compiled for a bucket of rule ") + rule_.name);
  tables_.buckets.push_back(bucket);
  return tables_.buckets.size() - 1;
}

// Tensors, buckets, chunks and tasks: what depends on the active parameters and their geometry.
void Plan::rebuild_tables(const std::vector<unsigned>& stages) {
  std::vector<ParameterRecord>& records = reader_.records();
  stages_ = stages;
  rebuild_ = false;
  coefficients_hold_ = false;
  tables_ = Tables{};
  const bool all = modifiers_.takes_joint_norm();
  for (const GroupClip& clip : group_clips_) tables_.measured_groups.push_back(all || clip.is_measured() ? 1 : 0);
  loops_.clear();
  zeros_.resize(records.size());
  const bool clips_rows = modifiers_.clip_kind() == ClipKind::kUnit;
  const bool holds = reader_.holding().is_given();
  const bool by_rows = clips_rows || (rule_.sums_norms && scope_ == Scope::kRow);
  for (size_t position = 0; position < records.size(); ++position) {
    ParameterRecord& record = records[position];
    record.operands.pointer[kSlow] = nullptr;
    if (!record.active) continue;
    const Bucket bucket{record.group, record.dtype, record.state_dtype, record.used_slots,
                        stages[static_cast<size_t>(record.group)]};
    const RecordCodecs* const codecs = holds && record.extra->codecs.is_coded ? &record.extra->codecs : nullptr;
    const size_t index = bucket_of(bucket, codecs == nullptr ? nullptr : &codecs->types);
    TensorEntry tensor;
    tensor.all = &record.operands;
    tensor.strided = record.layout.get();
    tensor.parameter = static_cast<int32_t>(position);
    tensor.group = record.group;
    tensor.bucket = static_cast<int32_t>(index);
    tables_.tensors.push_back(tensor);
    if (holds) tables_.beside.push_back(codecs == nullptr ? nullptr : &codecs->memory);
    if (position < sharing_.places.size()) tables_.places.push_back(sharing_.places[position]);
    if (!by_rows) continue;
    const Rows rows = record.extra != nullptr && (clips_rows || record.extra->sums) ? record.extra->rows : Rows{};
    tables_.row_maps.push_back({rows, tables_.row_total});
    tables_.row_total += rows.count;
  }
  tables_.map_chunks();
}

// Lookahead's weights take part in the step that ends a round.
void Plan::fill_slow_weights() {
  for (const TensorEntry& tensor : tables_.tensors) {
    ParameterRecord& record = reader_.records()[static_cast<size_t>(tensor.parameter)];
    record.operands.pointer[kSlow] = tables_.extras.synchronises ? record.extra->slow_values : nullptr;
  }
}

}  // namespace torchclip
