// Run by test_cuda_passes.py: norms and factors of param groups that have clip policies of their own, from the
// sums of each. Prints what differs; exits with 0 when nothing does.
#include "cuda_finish_check.h"
#include "policies.h"

namespace torchclip::cuda {
namespace {

constexpr int kGroups = 700;  // more than a block has threads

// Every third group is in the optimizer's norm, every seventh in none, and every fifth has no gradient.
GroupClip clip_of(int group, NonFinite nonfinite) {
  GroupClip clip;
  if (group % 7 == 6) return clip;
  clip.unit = group % 3 == 0 ? 0 : group;
  clip.limit = group % 3 == 0 ? 100.0 : group;
  clip.smooth = group % 3 == 1 ? 1 : 0;
  clip.nonfinite = static_cast<int32_t>(group % 3 == 0 ? NonFinite::kPropagate : nonfinite);
  return clip;
}

bool has_gradient(int group) { return group % 5 != 4; }

// `bad`: a group whose sum is not finite; -1: none is.
void run(int bad, NonFinite nonfinite, bool skips, bool gathered) {
  Numbers numbers;
  Modifiers modifiers;
  modifiers.clip = static_cast<double>(ClipKind::kNorm);
  modifiers.clip_scope = static_cast<double>(Scope::kGroup);
  modifiers.nonfinite = static_cast<double>(nonfinite);
  FinishArguments finish = finish_with(modifiers, numbers);
  std::vector<int32_t> chunks{0};
  std::vector<GroupClip> clips;
  std::vector<Partial> partials;
  double shared = 0;
  for (int group = 0; group < kGroups; ++group) {
    clips.push_back(clip_of(group, nonfinite));
    for (int i = 0; i < 2 && has_gradient(group); ++i) partials.push_back({group == bad ? INFINITY : group * 1.0, 0});
    chunks.push_back(static_cast<int32_t>(partials.size()));
    if (clips.back().unit == 0 && has_gradient(group)) shared += 2.0 * group;
  }
  measure_units(finish, chunks);
  finish.sums.partials = on_device(partials);
  if (gathered) {  // one device's: a sum for each group, and how many chunks it is of
    std::vector<UnitSum> sums(kGroups);
    for (int group = 0; group < kGroups; ++group) {
      const int32_t begin = chunks[static_cast<size_t>(group)], end = chunks[static_cast<size_t>(group) + 1];
      UnitSum& sum = sums[static_cast<size_t>(group)];
      for (int32_t i = begin; i < end; ++i) sum.Partial::add(partials[static_cast<size_t>(i)]);
      sum.count = end - begin;
    }
    finish.sums = {nullptr, nullptr, kGroups, 1, on_device(sums)};
  }
  finish.group_clips = on_device(clips);
  launch_finish(finish, nullptr);
  check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
  const std::vector<double> norms = on_host(finish.grad_norm, kGroups), factors = on_host(finish.clip_factor, kGroups);
  for (int group = 0; group < kGroups; ++group) {
    const GroupClip& clip = clips[static_cast<size_t>(group)];
    const double sum = !clip.is_measured() ? 0 : clip.unit == 0 ? shared : has_gradient(group) ? 2.0 * group : 0;
    const double norm = group == bad ? INFINITY : std::sqrt(sum), own = norms[static_cast<size_t>(group)];
    const double factor = sum == 0 ? 1.0 : clip_factor(norm, clip.limit, clip.smooth != 0);
    TORCHCLIP_EXPECT(own == norm || near(own, norm), "group %d: norm %g, wanted %g", group, own, norm);
    TORCHCLIP_EXPECT(near(factors[static_cast<size_t>(group)], factor), "group %d: factor %g, wanted %g", group,
                     factors[static_cast<size_t>(group)], factor);
  }
  TORCHCLIP_EXPECT((number(numbers.numbers).skip != 0) == skips, "group %d: the step is %s", bad,
                   skips ? "taken" : "skipped");
  const std::vector<double> counters = on_host(numbers.counters, 2), wanted(2, skips ? 0.0 : 1.0);
  TORCHCLIP_EXPECT(same_bits(counters, wanted), "group %d: counters", bad);
}

}  // namespace
}  // namespace torchclip::cuda

int main() {
  using namespace torchclip::cuda;
  using torchclip::NonFinite;
  for (const bool gathered : {false, true}) {
    run(-1, NonFinite::kSkip, false, gathered);
    run(1, NonFinite::kSkip, true, gathered);        // has a policy of its own, which skips
    run(1, NonFinite::kPropagate, false, gathered);  // and which does not
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
