// The plan of an optimizer's step on the CPU: which parameters step, in which chunks, with which coefficients. It lives
// as long as the optimizer's structure does, and is brought up to date at every step.
#pragma once

#include <array>

#include "cpu/passes.h"
#include "members.h"
#include "rule_table.h"

namespace torchclip {

// Over which parameters a norm is taken.
enum class Scope : int { kOptimizer, kGroup, kTensor };

// What is done to the raw gradients before the rule sees them.
enum class ClipKind : int { kNone, kNorm, kValue };
enum class NonFinite : int { kPropagate, kSkip, kError };
struct Clip {
  ClipKind kind = ClipKind::kNone;
  double limit = 0;  // max_norm or max_value, at least 0
  bool smooth = false;
  NonFinite nonfinite = NonFinite::kPropagate;
  Scope scope = Scope::kOptimizer;
};

enum class Outcome : int { kStepped, kSkipped, kNonFinite };

class Plan {
 public:
  // `rule` is a name of the registry, `names` what Python calls its parts, `scope` that of a rule that clips itself.
  Plan(const std::string& rule, const Names& names, Scope scope);

  // See Members::refresh.
  std::vector<int64_t> refresh(const py::list& param_groups, const py::dict& state) {
    return members_.refresh(param_groups, state);
  }
  int traverse(visitproc visit, void* arg) const { return members_.traverse(visit, arg); }
  void clear() { members_.clear(); }
  // The state of these parameters was made for this step and holds nothing yet.
  void mark_fresh(const std::vector<int64_t>& positions);

  // Norm pass, factors, update pass, on what the last refresh found. `found_inf`: a GradScaler says to measure and
  // skip. Skipped and non-finite steps write nothing.
  Outcome step(const Clip& clip, double inverse_grad_scale, bool found_inf);

  // Of the last step, one for each unit of the scope; empty when nothing was measured.
  const std::vector<double>& norms() const { return norms_; }
  const std::vector<double>& factors() const { return factors_; }
  // [parameters]: exact zeros that the last step of each left in it; -1 before its first, and when it was written
  // since.
  std::vector<int64_t> zeros() const;

 private:
  Outcome try_step(const Clip& clip, double inverse_grad_scale, bool found_inf);
  void rebuild_tables(const std::vector<unsigned>& stages);
  void fill_tensors();
  void fill_rows(const Clip& clip, double inverse_grad_scale);
  bool clip_gradients(const Clip& clip);
  void clip_direction(bool report);
  std::vector<Partial> sum_units(cpu::Measure measure, Scope scope);
  size_t unit_of(Scope scope, const TensorEntry& tensor) const;
  size_t unit_count(Scope scope) const;
  std::vector<unsigned> stages_of(const Clip& clip) const;  // [groups]
  void commit();

  using Scalars = std::array<double, kMaxScalars>;

  // Where a parameter stands before the step: parameters of one group with equal numbers share their coefficients.
  struct Standing {
    int32_t group = 0;
    bool first = false;
    Scalars scalars{};
    bool operator==(const Standing&) const = default;
  };
  struct Cohort {
    Standing standing;
    Scalars after;
    double coefficients[kMaxCoefficients];  // before any norm is known
  };
  // What a row was made from, and the numbers of state that its tensors have after the step.
  struct RowOrigin {
    int32_t tensor;
    int32_t cohort;
    Scalars after;
  };
  int32_t cohort_of(const Standing& standing);
  const double* hyperparameters_of(const Cohort& cohort) const;
  Row make_row(const Cohort& cohort, const Clip& clip, double inverse_grad_scale) const;

  const RuleEntry& rule_;
  Scope scope_;
  Members members_;
  std::vector<unsigned> stages_;  // [groups], that the tables were built for
  Tables tables_;
  std::vector<cpu::Loops> loops_;    // [buckets]
  std::vector<Standing> standings_;  // [tensors]
  std::vector<int64_t> fresh_;       // positions marked for this step
  std::vector<Cohort> cohorts_;
  std::vector<RowOrigin> origins_;  // [rows]
  std::vector<Partial> partials_;
  std::vector<int64_t> chunk_zeros_;
  std::vector<double> norms_, factors_;
  struct Zeros {
    int64_t count = -1;
    uint32_t version = 0;  // autograd's, of the parameter after the step
  };
  std::vector<Zeros> zeros_;
};

}  // namespace torchclip
