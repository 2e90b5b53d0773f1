// From types told at run time to types of the language.
#pragma once

#include "step/tables.h"

namespace torchclip {

template <class T>
struct Type {
  using type = T;
};

// Calls `visit` with the storage types; false when the pair is not one that occurs. State is stored in the parameter's
// type, or in float32 beside a half-precision parameter.
template <class Visitor>
bool visit_dtypes(DType parameter, DType state, const Visitor& visit) {
  switch (parameter) {
    case DType::kFloat32:
      if (state != DType::kFloat32) return false;
      visit(Type<float>{}, Type<float>{});
      return true;
    case DType::kFloat64:
      if (state != DType::kFloat64) return false;
      visit(Type<double>{}, Type<double>{});
      return true;
    case DType::kBFloat16:
      if (state == DType::kBFloat16) return visit(Type<BFloat16>{}, Type<BFloat16>{}), true;
      if (state == DType::kFloat32) return visit(Type<BFloat16>{}, Type<float>{}), true;
      return false;
    case DType::kFloat16:
      if (state == DType::kFloat16) return visit(Type<Float16>{}, Type<Float16>{}), true;
      if (state == DType::kFloat32) return visit(Type<Float16>{}, Type<float>{}), true;
      return false;
  }
  return false;
}

}  // namespace torchclip
