#include "plan_bindings.h"

#include <algorithm>
#include <memory>

#include "calls.h"
#include "cpu/plan.h"
#include "step/plan_arguments.h"
#include "step/table_layout.h"
#include "triton/plan.h"
#if defined(TORCHCLIP_CUDA)
#include "cuda/plan.h"
#endif

namespace torchclip {
namespace {

Object report(const Plan& plan) {
  const Report& measured = plan.report();
  const Object result = make_dict();
  const auto add = [&](const char* name, const std::vector<double>& values, bool is_single) {
    if (!values.empty()) put(result, name, is_single ? to_python(values.front()) : to_python(values));
  };
  add("grad_norm", measured.grad_norm, measured.is_single);
  add("clip_factor", measured.clip_factor, measured.is_single);
  add("direction_norm", measured.direction_norm, measured.is_single_direction);
  if (!measured.clip_factor.empty())
    put(result, "clipped_fraction",
        to_python(static_cast<double>(plan.clipped_steps()) /
                  static_cast<double>(std::max<int64_t>(plan.measured_steps(), 1))));
  if (measured.skipped.has_value()) {
    put(result, "skipped", to_python(*measured.skipped ? 1.0 : 0.0));
    put(result, "skipped_fraction",
        to_python(static_cast<double>(plan.skipped_steps()) /
                  static_cast<double>(std::max<int64_t>(plan.tried_steps(), 1))));
  }
  if (measured.lr_scale.has_value()) put(result, "lr_scale", to_python(*measured.lr_scale));
  return result;
}

StepInputs inputs_of(const Plan&, const Object& grad_scale, const Object& found_inf, const Object& loss) {
  // found_inf is a sum over devices: 2 says no less than 1.
  return {1.0 / number_from(grad_scale, 1.0), number_from(found_inf, 0.0) != 0, !found_inf.is_none(),
          number_from(loss, 0.0)};
}
Outcome step(Plan& plan, const StepInputs& inputs) { return plan.step(inputs); }

Object report(const GpuPlan& plan) { return plan.report(); }
Buffer buffer_or_none(const Object& value) { return is_tensor(value.get()) ? Buffer(value.call("detach")) : Buffer(); }
Inputs inputs_of(const GpuPlan&, const Object& grad_scale, const Object& found_inf, const Object& loss) {
  return {buffer_or_none(grad_scale), buffer_or_none(found_inf), buffer_or_none(loss)};
}
Outcome step(GpuPlan& plan, const Inputs& inputs) { return plan.step(inputs); }

// A plan that is at work for one thread is not for another, nor for itself through a hook: it may have let go of the
// GIL.
template <class AnyPlan>
class Exclusive {
 public:
  explicit Exclusive(AnyPlan& plan) : plan_(plan) {
    begin_call();
    // Where every tensor that is made would be a wrapper.
    if (reader().in_transform())
      throw std::runtime_error(
          "a fused step cannot be taken within a transform of torch.func (grad, vmap, jvp, functionalize): call step() "
          "outside, or choose backend='reference'");
    if (plan.in_use)
      throw std::runtime_error(
          "this optimizer is in a step already, of another thread or one that this call comes from: take the steps of "
          "an optimizer one after the other");
    plan.in_use = true;
  }
  ~Exclusive() { plan_.in_use = false; }
  Exclusive(const Exclusive&) = delete;
  Exclusive& operator=(const Exclusive&) = delete;

 private:
  AnyPlan& plan_;
};

Object dict_argument(PyObject* value) {
  if (!PyDict_Check(value)) throw TypeError("an optimizer's state is a dict, and here is " + type_name(value));
  return Object::borrow(value);
}

// A plan as an object of Python's. What holds an optimizer's parameters and state may be referred to by them in turn,
// through a hook say: the garbage collector must see through it.
template <class AnyPlan>
struct PlanObject {
  PyObject_HEAD AnyPlan* plan;

  static AnyPlan& of(PyObject* self) { return *reinterpret_cast<PlanObject*>(self)->plan; }

  // `make`: from the arguments of its constructor.
  template <AnyPlan* (*make)(const std::vector<Object>&)>
  static PyObject* construct(PyTypeObject* type, PyObject* arguments, PyObject* named) noexcept {
    return guarded([&] {
      begin_call();
      if (named != nullptr && PyDict_Size(named) != 0) throw TypeError("a plan takes no keyword arguments");
      std::unique_ptr<AnyPlan> plan(make(items_of(arguments)));
      const allocfunc allocate = reinterpret_cast<allocfunc>(PyType_GetSlot(type, Py_tp_alloc));
      Object self = Object::take(allocate(type, 0));
      reinterpret_cast<PlanObject*>(self.get())->plan = plan.release();
      return self;
    });
  }

  static void destroy(PyObject* self) {
    PyTypeObject* const type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    delete reinterpret_cast<PlanObject*>(self)->plan;
    reinterpret_cast<freefunc>(PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
  }

  static int traverse(PyObject* self, visitproc visit, void* arg) {
    Py_VISIT(Py_TYPE(self));
    AnyPlan* const plan = reinterpret_cast<PlanObject*>(self)->plan;
    return plan == nullptr ? 0 : plan->traverse(visit, arg);
  }

  static int clear(PyObject* self) {
    AnyPlan* const plan = reinterpret_cast<PlanObject*>(self)->plan;
    if (plan != nullptr) plan->clear();
    return 0;
  }

  template <Object (*body)(AnyPlan&, const Arguments&)>
  static PyObject* method(PyObject* self, PyObject* const* values, Py_ssize_t count) noexcept {
    return guarded([&] { return body(of(self), Arguments{values, count}); });
  }
  template <Object (*body)(AnyPlan&)>
  static PyObject* property(PyObject* self, void*) noexcept {
    return guarded([&] { return body(of(self)); });
  }
};

template <class AnyPlan>
Object refresh_plan(AnyPlan& plan, const Arguments& arguments) {
  arguments.expect("refresh", 2, 2);
  const Exclusive<AnyPlan> exclusive(plan);
  return to_python(plan.refresh(Object::borrow(arguments[0]), dict_argument(arguments[1])));
}

template <class AnyPlan>
Object mark_fresh(AnyPlan& plan, const Arguments& arguments) {
  arguments.expect("mark_fresh", 1, 1);
  const Exclusive<AnyPlan> exclusive(plan);
  plan.mark_fresh(vector_of(arguments[0], to_int));
  return none();
}

template <class AnyPlan>
Object configure(AnyPlan& plan, const Arguments& arguments) {
  arguments.expect("configure", 1, 2);
  const Exclusive<AnyPlan> exclusive(plan);
  plan.configure(modifiers_from(arguments[0]),
                 arguments.count == 2 ? group_clips_from(arguments[1]) : std::vector<GroupClip>{});
  return none();
}

template <class AnyPlan>
Object share_plan(AnyPlan& plan, const Arguments& arguments) {
  arguments.expect("share", 6, 6);
  const Exclusive<AnyPlan> exclusive(plan);
  std::vector<Object> parts;
  for (Py_ssize_t i = 0; i < arguments.count; ++i) parts.push_back(Object::borrow(arguments[i]));
  plan.share(sharing_from(parts));
  return none();
}

template <class AnyPlan>
Object hold(AnyPlan& plan, const Arguments& arguments) {
  const Exclusive<AnyPlan> exclusive(plan);
  plan.hold(holding_from(arguments));
  return none();
}

template <class AnyPlan>
Object keep_wide(AnyPlan& plan, const Arguments& arguments) {
  arguments.expect("keep_wide", 1, 1);
  const Exclusive<AnyPlan> exclusive(plan);
  plan.keep_wide(vector_of(arguments[0], [](PyObject* wide) { return static_cast<char>(to_bool(wide)); }));
  return none();
}

Object give_norm(Plan& plan, const Arguments& arguments) {
  arguments.expect("set_norm", 1, 1);
  const Exclusive<Plan> exclusive(plan);
  const Object norm = Object::borrow(arguments[0]);
  plan.set_norm(norm.is_none() ? std::nullopt : std::optional<double>(number_from(norm, 0.0)));
  return none();
}

template <class AnyPlan>
Object take_step(AnyPlan& plan, const Arguments& arguments) {
  arguments.expect("step", 5, 5);
  const Exclusive<AnyPlan> exclusive(plan);
  const auto argument = [&](Py_ssize_t index) { return Object::borrow(arguments[index]); };
  // First: other threads may run meanwhile, and replace gradients that were read.
  const auto inputs = inputs_of(plan, argument(2), argument(3), argument(4));
  const bool ready = plan.refresh(argument(0), dict_argument(arguments[1])).empty();
  return to_python(static_cast<int>(ready ? step(plan, inputs) : Outcome::kUnready));
}

template <class AnyPlan>
Object unstarted(AnyPlan& plan, const Arguments& arguments) {
  arguments.expect("unstarted", 0, 0);
  return to_python(plan.unstarted());
}

template <class AnyPlan>
Object report_of(AnyPlan& plan, const Arguments& arguments) {
  arguments.expect("report", 0, 0);
  return report(plan);
}

template <class AnyPlan>
Object steps_of(AnyPlan& plan) {
  return to_python(plan.steps());
}

template <class AnyPlan>
Object zeros_of(AnyPlan& plan) {
  return to_python(plan.zeros());
}

Object skipped_of(const GpuPlan& plan) { return plan.skipped(); }
// Its steps say it themselves.
Object skipped_of(const Plan&) { return none(); }
template <class AnyPlan>
Object skipped(AnyPlan& plan) {
  return skipped_of(plan);
}

template <class AnyPlan, AnyPlan* (*make)(const std::vector<Object>&)>
void bind_plan(const Object& module, const char* name, const char* path, const char* signature) {
  using Bound = PlanObject<AnyPlan>;
  static std::vector<PyMethodDef> methods = {
      method_of("refresh", &Bound::template method<&refresh_plan<AnyPlan>>,
                "refresh(self, param_groups, state, /) -> list"),
      method_of("mark_fresh", &Bound::template method<&mark_fresh<AnyPlan>>, "mark_fresh(self, positions, /) -> None"),
      method_of("unstarted", &Bound::template method<&unstarted<AnyPlan>>, "unstarted(self) -> list"),
      method_of("configure", &Bound::template method<&configure<AnyPlan>>,
                "configure(self, numbers, groups=(), /) -> None"),
      method_of("hold", &Bound::template method<&hold<AnyPlan>>, kHoldSignature),
      method_of("keep_wide", &Bound::template method<&keep_wide<AnyPlan>>, "keep_wide(self, wide, /) -> None"),
      method_of("share", &Bound::template method<&share_plan<AnyPlan>>,
                "share(self, add, policy, rule, loss_share, places, zeros, /) -> None"),
      method_of("step", &Bound::template method<&take_step<AnyPlan>>,
                "step(self, param_groups, state, grad_scale, found_inf, loss, /) -> int"),
      method_of("report", &Bound::template method<&report_of<AnyPlan>>, "report(self) -> dict")};
  if constexpr (std::is_same_v<AnyPlan, Plan>)
    methods.push_back(method_of("set_norm", &Bound::template method<&give_norm>, "set_norm(self, norm, /) -> None"));
  methods.push_back({nullptr, nullptr, 0, nullptr});
  static PyGetSetDef properties[] = {
      {"steps", &Bound::template property<&steps_of<AnyPlan>>, nullptr, nullptr, nullptr},
      {"zeros", &Bound::template property<&zeros_of<AnyPlan>>, nullptr, nullptr, nullptr},
      {"skipped", &Bound::template property<&skipped<AnyPlan>>, nullptr, nullptr, nullptr},
      {nullptr, nullptr, nullptr, nullptr, nullptr}};
  PyType_Slot slots[] = {{Py_tp_doc, const_cast<char*>(signature)},
                         {Py_tp_new, reinterpret_cast<void*>(&Bound::template construct<make>)},
                         {Py_tp_dealloc, reinterpret_cast<void*>(&Bound::destroy)},
                         {Py_tp_traverse, reinterpret_cast<void*>(&Bound::traverse)},
                         {Py_tp_clear, reinterpret_cast<void*>(&Bound::clear)},
                         {Py_tp_methods, methods.data()},
                         {Py_tp_getset, properties},
                         {0, nullptr}};
  PyType_Spec spec = {path, static_cast<int>(sizeof(Bound)), 0, Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC, slots};
  const Object type = Object::take(PyType_FromSpec(&spec));
  if (PyObject_SetAttrString(module.get(), name, type.get()) != 0) throw PythonError();
}

struct RuleArguments {
  std::string rule;
  Names names;
  Scope scope;

  // `count`: of arguments, those that a plan takes besides the rule included.
  RuleArguments(const std::vector<Object>& arguments, size_t count) {
    if (arguments.size() != count)
      throw TypeError("this plan takes " + std::to_string(count) + " arguments, and was given " +
                      std::to_string(arguments.size()));
    rule = to_string(arguments[0].get());
    if (find_rule(rule) == nullptr) throw KeyError("csrc/rules/registry.h lists no rule called " + rule);
    names = {keys_from(arguments[1].get()), vector_of(arguments[2].get(), to_string),
             vector_of(arguments[3].get(), to_string)};
    scope = static_cast<Scope>(to_int(arguments[4].get()));
  }
};

template <class AnyPlan>
AnyPlan* make_plan(const std::vector<Object>& arguments) {
  const RuleArguments rule(arguments, 5);
  return new AnyPlan(rule.rule, rule.names, rule.scope);
}

triton::Plan* make_triton_plan(const std::vector<Object>& arguments) {
  const RuleArguments rule(arguments, 7);
  return new triton::Plan(rule.rule, rule.names, rule.scope, to_string(arguments[5].get()), arguments[6]);
}

}  // namespace

void bind_plans(const Object& module) {
  bind_plan<Plan, &make_plan<Plan>>(module, "Plan", "torchclip._C.Plan",
                                    "Plan(self, rule, keys, slots, scalars, scope, /) -> None");
  bind_plan<triton::Plan, &make_triton_plan>(
      module, "TritonPlan", "torchclip._C.TritonPlan",
      "TritonPlan(self, rule, keys, slots, scalars, scope, device, make_launcher, /) -> None");
#if defined(TORCHCLIP_CUDA)
  bind_plan<cuda::Plan, &make_plan<cuda::Plan>>(module, "CudaPlan", "torchclip._C.CudaPlan",
                                                "CudaPlan(self, rule, keys, slots, scalars, scope, /) -> None");
#endif
}

}  // namespace torchclip
