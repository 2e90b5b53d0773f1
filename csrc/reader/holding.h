// A precision policy as a plan is told of it: in which types it holds the operands of a parameter.
#pragma once

#include "../codecs.h"
#include "reader.h"

namespace torchclip {

class Holding {
 public:
  // Of a state slot, by torchclip.backends.held.SLOT_FORMS.
  enum Slot : int {
    kUnruled,      // as without a policy: float32, or the parameter's type
    kAsParameter,  // the parameter's type
    kFloat32,
    kBFloat16,
    kStochasticBFloat16,
    kBlocks,  // where the parameter does not stay wide; else float32
    kUnsignedBlocks,
    kSlotForms
  };

  Holding() = default;
  // `parameter`: of those in less than float32. `slots`: [slots of the rule]. Of fewer elements than `min_elements`,
  // and of at least `embedding_rows` rows in a matrix, a parameter stays wide; none does by its rows where that is
  // negative. `beside`: the key of what is kept beside a parameter, and `absmax` those of each slot's, where there are
  // such.
  Holding(Form parameter, std::vector<Slot> slots, int64_t min_elements, int64_t embedding_rows, std::string beside,
          std::vector<std::string> absmax)
      : beside(std::move(beside)),
        absmax(std::move(absmax)),
        is_given_(true),
        parameter_(parameter),
        slots_(std::move(slots)),
        min_elements_(min_elements),
        embedding_rows_(embedding_rows) {}

  std::string beside;
  std::vector<std::string> absmax;

  // By position, whether the state of a parameter stays wide: of parts, whose shapes here do not tell. Empty where they
  // do.
  std::vector<char> wide;

  bool is_given() const { return is_given_; }
  // Whether something of a parameter's shape is kept beside it.
  bool keeps_beside() const { return parameter_ == Form::kSplit || parameter_ == Form::kMaster; }
  // Whether that is the value that a step starts from.
  bool has_masters() const { return parameter_ == Form::kMaster; }
  bool has_blocks(size_t slot) const { return slots_[slot] == kBlocks || slots_[slot] == kUnsignedBlocks; }
  bool draws() const;
  // How a parameter is held, of which the slots of the mask are in use; false where the policy does not serve its type.
  // `slots`: [slots of the rule], as they are, for kUnruled alone.
  bool types_of(const TensorInfo& parameter, size_t position, unsigned used, const TensorInfo* slots,
                Types& types) const;

 private:
  bool stays_wide(const TensorInfo& parameter, size_t position) const;

  bool is_given_ = false;
  Form parameter_ = Form::kNearest;
  std::vector<Slot> slots_;
  int64_t min_elements_ = 0, embedding_rows_ = -1;
};

// The types that tensors held so have.
ElementType element_type(const Codec& codec);
// Whether a loop or kernel is compiled for operands as they lie in memory. `narrow_state`: for float32 with state in
// bfloat16, too.
bool is_compiled(const Types& types, unsigned used, bool narrow_state);

}  // namespace torchclip
