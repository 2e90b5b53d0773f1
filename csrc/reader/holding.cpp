#include "holding.h"

#include <algorithm>

#include "tensor_info.h"

namespace torchclip {

bool Holding::draws() const {
  return parameter_ == Form::kStochastic || std::count(slots_.begin(), slots_.end(), kStochasticBFloat16) != 0;
}

bool Holding::stays_wide(const TensorInfo& parameter, size_t position) const {
  if (position < wide.size()) return wide[position] != 0;
  const bool is_embedding = embedding_rows_ >= 0 && parameter.dim == 2 && parameter.sizes[0] >= embedding_rows_;
  return is_embedding || parameter.numel < std::max<int64_t>(min_elements_, 1);
}

bool Holding::types_of(const TensorInfo& parameter, size_t position, unsigned used, const TensorInfo* slots,
                       Types& types) const {
  DType own;
  if (!storage_dtype(parameter.type, own) || own == DType::kFloat64 || is_complex(parameter)) return false;
  if (own == DType::kFloat32 && parameter_ != Form::kNearest) return false;
  if (own == DType::kFloat16 && (parameter_ == Form::kSplit || parameter_ == Form::kStochastic)) return false;
  types = Types{};
  types.parameter = {parameter_, own};
  const bool is_wide = stays_wide(parameter, position);
  for (size_t slot = 0; slot < slots_.size(); ++slot) {
    if ((used >> slot & 1u) == 0) continue;
    Codec& codec = types.slots[slot];
    const Slot form = slots_[slot];
    if (form == kUnruled) {
      if (!storage_dtype(slots[slot].type, codec.dtype)) return false;
      if (codec.dtype != own && codec.dtype != DType::kFloat32) return false;
    } else if (form == kAsParameter) {
      codec.dtype = own;
    } else if (form == kBFloat16 || form == kStochasticBFloat16) {
      codec = {form == kBFloat16 ? Form::kNearest : Form::kStochastic, DType::kBFloat16};
    } else if (has_blocks(slot) && !is_wide) {
      codec.form = form == kBlocks ? Form::kBlocks : Form::kUnsignedBlocks;
    }
  }
  return true;
}

ElementType element_type(const Codec& codec) {
  if (is_blocks(codec.form)) return kByteType;
  if (codec.dtype == DType::kBFloat16) return {ElementType::kBfloat, 16};
  return codec.dtype == DType::kFloat16 ? ElementType{ElementType::kFloat, 16} : kFloatType;
}

bool is_compiled(const Types& types, unsigned used, bool narrow_state) {
  const DType own = types.parameter.dtype;
  if (types.parameter.form != Form::kNearest || types.gradient != own) return false;
  const Codec* first = nullptr;
  for (size_t slot = 0; slot < kMaxSlots; ++slot) {
    if ((used >> slot & 1u) == 0) continue;
    const Codec& codec = types.slots[slot];
    const bool is_narrow = narrow_state && own == DType::kFloat32 && codec.dtype == DType::kBFloat16;
    const bool is_pair = codec.dtype == own || codec.dtype == DType::kFloat32 || is_narrow;
    if (codec.form != Form::kNearest || !is_pair) return false;
    if (first != nullptr && codec.dtype != first->dtype) return false;
    first = &codec;
  }
  return true;
}

}  // namespace torchclip
