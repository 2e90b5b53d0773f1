// One device's share of a step: its tables, the memory that its kernels write, and its launches.
#pragma once

#include <map>
#include <string>

#include "device_exchange.h"
#include "device_id.h"
#include "device_image.h"
#include "group_state.h"
#include "host_tables.h"

namespace torchclip {

// What a caller of step() hands over; undefined where it does not. All of it is read on the device.
struct Inputs {
  Buffer grad_scale;  // of a GradScaler
  Buffer found_inf;
  Buffer loss;
};

// Where the numbers lie that a step measures, float64.
struct Measured {
  Buffer grad_norm, clip_factor;            // [units], of the clip policy
  Buffer rule_grad_norm, rule_clip_factor;  // [units], of a rule that clips itself
  Buffer direction_norm;                    // [units]
  Buffer lr_scale;                          // []
  Buffer skipped;                           // []
};

constexpr const char* kNotReady =
    "this step's state and tables are not on the device yet, and a graph that is being captured cannot make them: take "
    "one step with the same parameters, gradients and settings before the capture";

class DeviceStep {
 public:
  DeviceStep(DeviceId id, const RuleEntry& rule, size_t parameters);
  virtual ~DeviceStep() = default;
  DeviceStep(const DeviceStep&) = delete;
  DeviceStep& operator=(const DeviceStep&) = delete;

  // Makes the tables anew. `positions`: of the parameters with a gradient here; `devices`: that take part in the step;
  // `sharing`: which outlives the tables.
  void build(const ParameterReader& reader, const Modifiers& modifiers, const Shape& shape,
             const std::vector<size_t>& positions, size_t devices, const Sharing& sharing);
  // Reads this step's addresses and numbers; tables that are no longer right are written anew. Shared numbers lie on
  // the main device; the others work on copies. `any_fresh`: there are parameters that are.
  void begin(const ParameterReader& reader, const Modifiers& modifiers, const Inputs& inputs, bool any_fresh,
             bool is_main, void* stream, bool capturing);
  // [parameters]: where the flag of each is so far, -1 where it has none that holds.
  void move_fresh(const std::vector<int64_t>& from);

  // No parameter has a gradient.
  void measure_nothing();

  // Asks other processes for their parts of sums, which the finish behind takes. `is_first`: of the step.
  void exchange(Asked asked, bool is_first);
  const DeviceExchange& exchange_of(Asked asked) const { return exchanges_[static_cast<size_t>(asked)]; }

  // Counts the zeros that the parameters hold, for the next step to find.
  void count_zeros(const ParameterReader& reader);
  // Those of a group here, of the last step or count_zeros(): one int64 number.
  Buffer zeros_of_group(size_t group) const;
  // [param groups, devices] in one dimension: those of all devices, where there are several.
  const Buffer& gathered_zeros() const { return gathered_zeros_; }

  const DeviceId& id() const { return id_; }
  const Measured& measured() const { return measured_; }
  const Buffer& counters() const { return counters_; }  // [kCounters], see FinishTables
  const Buffer& fresh() const { return fresh_; }        // [parameters], 1: no step has been taken with the state
  const Buffer& zeros() const { return zeros_; }        // [pieces], those counted in each
  // UnitSum [units] as float64 numbers: of the last norm pass over what lies here; and [devices, units], those of all.
  const Buffer& unit_sums() const { return unit_sums_; }
  Buffer gathered_sums() const { return gathered_sums_; }
  const HostTables& tables() const { return tables_; }
  // A graph holds addresses of what lies here.
  bool is_in_graph() const { return is_in_graph_; }
  // The coefficients that the host makes, before any norm is known, have room.
  bool coefficients_fit() const { return !rides_along() || tables_.sources.size() <= kInlineCoefficients; }
  // Where a launcher asks for it: whether the tables were made for tensors that lie at multiples of 16 bytes as now.
  bool is_aligned_as_built(const ParameterReader& reader) const;

 protected:
  // What a launcher says, and is told.
  virtual Cutting cutting() const = 0;
  // Gradients, groups and coefficients ride in the parameters of launches, as far as there is room.
  virtual bool rides_along() const = 0;
  // A change of several tables is written as one piece of memory.
  virtual bool writes_in_one() const = 0;
  // Writes host memory to that place of a contiguous tensor on the device, in the order of the stream, without waiting,
  // and as a part of a graph that is being captured.
  virtual void upload(const Buffer& memory, Extent extent, const void* from) = 0;
  // Fills an exchange with what this process has.
  virtual void share(const ShareArguments& arguments) = 0;
  // Makes room for tables of its own.
  virtual void reserve_own() {}
  // The tables are new: which launches there are.
  virtual void plan_launches() = 0;
  // Blocks of all launches of a pass together.
  virtual uint32_t norm_blocks() const = 0;
  virtual uint32_t direction_blocks() const = 0;
  // Where the tables lie is known, and they may have moved.
  virtual void placed() {}
  // The arguments of this step are complete; tables of its own are to be set.
  virtual void set_own() {}

  std::vector<Buffer> buffers() const;
  void follow_stream(void* stream, bool capturing);
  void reserve_tables(const ParameterReader& reader);
  void reserve_exchanges(const ParameterReader& reader);
  ShareArguments share_arguments(Asked asked, bool is_first) const;
  // What the finish behind an exchange reads, but for the loss.
  void take_exchange(Asked asked, bool is_first);
  static void take_rows(const DeviceExchange& exchange, size_t long_rows, RowSums& rows);
  void forget_exchanges();
  // Thresholds are steered by what other processes send.
  bool steers_behind_exchange() const { return *sharing_ && shape_.threshold_scales; }
  void set_layouts();
  void reserve_scratch(const ParameterReader& reader);
  void set_static_arguments();
  void read_tensors(const ParameterReader& reader);
  void read_gradients(const ParameterReader& reader);
  void read_groups(const ParameterReader& reader);
  void set_zero_ranges();
  void read_threshold(const Group& group, size_t index, GroupNumbers& numbers);
  void read_rule_sums(const ParameterReader& reader);
  void write_tables();
  void move_image();
  void read_shared(const ParameterReader& reader, const Inputs& inputs);
  Coefficients coefficients_before_norms(const Group& group) const;
  void fill_coefficients(const ParameterReader& reader);
  // Where the sums over the units come from. `alone`: no other device takes part.
  UnitSums sums_of(Section<int32_t> units, bool alone) const;
  void upload_fresh(const std::vector<ParameterRecord>& records);
  GroupState shared_of(const Group& group) const;
  // `tensor` on this device: itself on the main one, a copy of this step's value on the others.
  Buffer beside(const std::string& name, const Buffer& tensor);
  Buffer on_device(const Buffer& tensor, ElementType type) const;
  template <class T>
  T* scratch(Section<T> section) const {
    return reinterpret_cast<T*>(scratch_.values<char>() + section.offset);
  }

  DeviceId id_;
  const RuleEntry& rule_;
  Shape shape_;
  Modifiers modifiers_;
  HostTables tables_;
  int32_t devices_ = 1;  // that take part in the step
  const Sharing* sharing_ = nullptr;
  DeviceExchange exchanges_[kAsked];  // where other processes are asked
  bool is_main_ = true;
  bool rounds_by_draws_ = false;  // a precision policy
  bool capturing_ = false;
  void* stream_ = nullptr;

  DeviceImage image_;
  Section<DeviceTensor> tensors_;
  Section<DeviceBeside> beside_;
  Section<int64_t> layouts_;
  Section<DeviceChunk> chunks_;
  Section<DeviceRowChunk> row_chunks_;
  Section<DeviceLongRow> long_rows_;
  Section<CoefficientSource> sources_;
  Section<int32_t> clip_units_, rule_units_, row_unit_, sum_is_double_;
  Section<ZeroRange> zero_ranges_;
  Section<int32_t> zero_begins_;
  Section<GroupClip> group_clips_;
  Section<void*> rule_sums_;
  std::vector<void*> rule_sum_places_;       // [units]
  std::vector<int32_t> rule_sum_is_double_;  // [units]
  Section<const void*> gradients_;
  Section<GroupNumbers> groups_;
  Section<Coefficients> host_coefficients_;

  Buffer scratch_;  // zeros at first
  Section<Coefficients> coefficients_;
  Section<double> next_scalars_, next_scales_;
  Section<Partial> partials_;
  Section<StepNumbers> numbers_;
  Section<uint32_t> blocks_done_;
  Section<double> row_gradient_factors_, row_step_factors_;
  Buffer zeros_, gathered_zeros_, unit_sums_, gathered_sums_, counters_, fresh_;
  Measured measured_;
  std::map<std::string, Buffer> copies_;  // of shared numbers, on a device that is not the main one
  std::vector<Buffer> held_;              // what this step's kernels read
  Inputs given_;                          // on this device
  std::vector<Buffer> kept_;              // what a graph reads and writes when it is replayed
  bool is_in_graph_ = false;
  std::vector<void*> streams_;  // that the buffers have been used on, that of their allocation first

  PassArguments pass_{};
  FinishArguments finish_{};
  FinishRuleArguments finish_rule_{};
};

}  // namespace torchclip
