// The plan of an optimizer's step on the CPU: which parameters step, in which chunks, with which coefficients. It lives
// as long as the optimizer's structure does, and is brought up to date at every step.
#pragma once

#include <array>
#include <optional>

#include "../policies.h"
#include "../reader/parameter_reader.h"
#include "../rule_table.h"
#include "../step/group_state.h"
#include "../step/modifiers.h"
#include "../step/sharing.h"
#include "../step/step.h"
#include "passes.h"

namespace torchclip {

// What a step measured: one number for each unit of its scope.
struct Report {
  std::vector<double> grad_norm, clip_factor, direction_norm;
  bool is_single = true;            // grad_norm and clip_factor are one number for the whole optimizer
  bool is_single_direction = true;  // direction_norm is
  std::optional<double> lr_scale;
  std::optional<bool> skipped;  // where a policy may skip a step
};

// What a step is handed.
struct StepInputs {
  double inverse_grad_scale = 1;
  bool found_inf = false;      // a GradScaler says to measure and skip
  bool has_found_inf = false;  // there is one: other processes may have found what this one has not
  double loss = 0;
};

class Plan {
 public:
  bool in_use = false;  // by a call from Python, see plan_bindings.cpp

  // `rule` is a name of the registry, `names` what Python calls its parts, `scope` that of a rule that clips itself.
  Plan(const std::string& rule, const Names& names, Scope scope);

  // `group_clips`: one for each param group, where groups have policies of their own.
  void configure(const Modifiers& modifiers, const std::vector<GroupClip>& group_clips);
  // From the next step on.
  void share(Sharing sharing);
  // See ParameterReader::hold.
  void hold(Holding holding) { reader_.hold(std::move(holding)); }
  void keep_wide(std::vector<char> wide) { reader_.keep_wide(std::move(wide)); }
  // What the next step takes for the norm of its clip policy, in place of one that it measures.
  void set_norm(std::optional<double> norm) { given_norm_ = norm; }
  // See ParameterReader::refresh.
  std::vector<int64_t> refresh(const Object& param_groups, const Object& state) {
    return reader_.refresh(param_groups, state);
  }
  int traverse(visitproc visit, void* arg) const { return reader_.traverse(visit, arg); }
  void clear() { reader_.clear(); }
  // The state of these parameters holds nothing yet; positions are those of the last refresh.
  void mark_fresh(const std::vector<int64_t>& positions);
  // Those of them that have taken no step since, with their slots by name.
  std::vector<Object> unstarted() const {
    return reader_.list_unstarted([](const ParameterRecord& record) { return record.fresh; });
  }

  // Norm pass, factors, update pass, on what the last refresh found. Skipped and non-finite steps write nothing.
  Outcome step(const StepInputs& inputs);
  // How many steps have been taken, which have written parameters and state.
  int64_t steps() const { return steps_; }

  // Of the last finished step, while another thread takes the next one.
  const Report& report() const { return finished_; }
  // Steps taken that measured a clip factor, and those of them in which one was below 1.
  int64_t measured_steps() const { return measured_steps_; }
  int64_t clipped_steps() const { return clipped_steps_; }
  // Steps with a gradient, and those of them that were not taken.
  int64_t tried_steps() const { return tried_steps_; }
  int64_t skipped_steps() const { return skipped_steps_; }
  // [parameters]: exact zeros that the last step of each left in it; -1 before its first, and when it was written
  // or moved since.
  std::vector<int64_t> zeros() const;

 private:
  Outcome try_step(const StepInputs& inputs);
  bool draws() const { return modifiers_.draws() || reader_.holding().draws(); }
  bool counts_steps() const { return modifiers_.counts_steps() || reader_.holding().draws(); }
  size_t bucket_of(const Bucket& bucket, const Types* types);
  void rebuild_tables(const std::vector<unsigned>& stages);
  void fill_slow_weights();
  void fill_standings();
  void assign_coefficients();
  void fill_coefficients(double inverse_grad_scale);
  void read_shared();
  void fill_extras();

  // Norms, in plan_norms.cpp.
  NonFinite clip_gradients();
  NonFinite clip_by_norm();
  NonFinite clip_by_rows();
  GroupClip clip_of(size_t unit) const;
  void join_groups(std::vector<UnitSum>& units) const;
  double factor_of(size_t unit, double norm);
  double adaptive_factor(double norm);
  bool find_spikes(double loss);
  void clip_direction(bool report);
  void clip_row_steps(bool report);
  DirectionNorms norms_of(size_t unit, const Partial& sum);
  std::vector<UnitSum> sum_units(cpu::Measure measure, Scope scope, const Cells& cells);
  void share_units(std::vector<UnitSum>& units, const Cells& cells);
  void exchange(SharedSums& sums);
  void exchange_common();
  void fill_zero_cells();
  // Sums by rows.
  struct RowSums {
    std::vector<Partial> rows;  // [rows of all tensors]
    std::vector<Partial> rest;  // [tensors], of one without rows
    Partial total;              // over everything
  };
  RowSums sum_rows(cpu::Measure measure);
  void share_rows(RowSums& sums, const Cells& cells, bool of_policy);
  double unit_factor(const Partial& row) const;
  double scale_gradients_by_step_size();
  // [groups], among the elements of those parameters that have a gradient.
  std::vector<ZeroCount> count_zeros() const;
  int64_t count_zeros_in(size_t position) const;
  int64_t zeros_in(size_t position, const void* memory) const;
  void scale_thresholds();
  std::unique_ptr<WithoutGil> release_gil();

  void commit();
  void commit_shared();

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
  // What coefficients were made from, and the numbers of state that their tensors have after the step.
  struct CoefficientOrigin {
    int32_t tensor;
    int32_t cohort;
    Scalars after;
  };
  int32_t cohort_of(const Standing& standing);
  const double* hyperparameters_of(const Cohort& cohort) const;
  Coefficients make_coefficients(const Cohort& cohort, double inverse_grad_scale) const;

  const RuleEntry& rule_;
  Scope scope_;
  Modifiers modifiers_;
  std::vector<GroupClip> group_clips_;  // [groups], or empty
  ParameterReader reader_;
  std::vector<unsigned> stages_;  // [groups], that the tables were built for
  bool rebuild_ = false;          // the modifiers have changed since
  Sharing sharing_;
  CommonNumbers common_{};                 // of this step, and of all processes once they have been asked
  bool has_asked_ = false;                 // they have been, in this step
  std::vector<ZeroCount> zeros_of_cells_;  // [cells of zeros], as `common_`
  std::optional<double> given_norm_;
  Tables tables_;
  std::vector<cpu::Loops> loops_;    // [buckets]
  std::vector<Standing> standings_;  // [tensors]
  bool coefficients_hold_ = false;   // every tensor has those that it had in the last step
  bool any_fresh_ = false;           // some record is
  HeldMemory held_;                  // what passes without the GIL read and write
  std::vector<Cohort> cohorts_;
  std::vector<CoefficientOrigin> origins_;  // [sets of coefficients]
  std::vector<Partial> partials_;
  std::vector<int64_t> chunk_zeros_;
  Report report_;    // of the step being taken
  Report finished_;  // of the last one
  int64_t steps_ = 0;
  int64_t measured_steps_ = 0, clipped_steps_ = 0, tried_steps_ = 0, skipped_steps_ = 0;

  // The shared numbers after the step, written when it is taken.
  struct Shared {
    double step = 0;  // the number of this step, from 1
    uint64_t seed = 0;
    double b_squared = 0;
    NormAverages averages;
    std::vector<double> window;  // AutoClip's, with this step's norm
    double window_count = 0;
    double joint_square = 0;     // of the norm of all gradients
    double clipped_square = 0;   // the same after clipping
    std::vector<double> bounds;  // AdaGC's, of each parameter
    double bounded_steps = 0;
    double polyak = 0;                     // PolyakStep's step
    std::vector<double> threshold_scales;  // [groups], of rules that count zeros
    std::vector<double> sums;  // of squared norms: one for each unit of the rule's scope, or each row of all tensors
  } shared_;

  struct Zeros {
    int64_t count = -1;
    uint32_t version = 0;                 // autograd's, of the parameter after the step
    const PyObject* parameter = nullptr;  // which it was
    const void* memory = nullptr;         // where it lay: a new one through `.data` counts up no version
  };
  std::vector<Zeros> zeros_;
  std::vector<uint32_t> versions_;  // [parameters], scratch of commit()
};

}  // namespace torchclip
