// Which kernels serve a bucket.
#include <cstring>

#include "../rules/registry.h"
#include "launchers.h"

namespace torchclip::cuda {
namespace {

template <class... Rule>
Launchers launchers_for_rule(TypeList<Rule...>, const char* name, const Bucket& bucket) {
  Launchers launchers;
  ((std::strcmp(name, Rule::kName) == 0 ? void(launchers = functor_launchers<typename Rule::Functor>(bucket)) : void()),
   ...);
  return launchers;
}

}  // namespace

Launchers find_launchers(const char* rule, const Bucket& bucket) {
  Launchers launchers = launchers_for_rule(Rules{}, rule, bucket);
  const Launchers gradients = gradient_launchers(bucket.parameter_dtype);
  launchers.raw_norm = gradients.raw_norm;
  launchers.row_norm = gradients.row_norm;
  return launchers;
}

}  // namespace torchclip::cuda
