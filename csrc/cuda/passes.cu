// Which kernels serve a bucket.
#include <cstring>

#include "../rules/registry.h"
#include "launchers.h"

namespace torchclip::cuda {

Launchers find_launchers(const char* rule, const Bucket& bucket) {
  Launchers launchers;
  for_each_rule(Rules{}, [&](auto each, int32_t) {
    using Rule = typename decltype(each)::type;
    if (std::strcmp(rule, Rule::kName) == 0) launchers = functor_launchers<typename Rule::Functor>(bucket);
  });
  const Launchers gradients = gradient_launchers(bucket.parameter_dtype);
  launchers.raw_norm = gradients.raw_norm;
  launchers.row_norm = gradients.row_norm;
  return launchers;
}

}  // namespace torchclip::cuda
