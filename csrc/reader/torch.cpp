// The fast form of the reader, by torch's own structures: beside torch_tensors.h the only file that includes torch's
// headers. It becomes an extension of its own, torchclip._torch, for the torch that it was compiled beside.
#include <ATen/Parallel.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "dtensors.h"
#include "torch_tensors.h"

namespace torchclip {
namespace {

bool describe(Handle tensor, bool writes, TensorInfo& info) {
  at::TensorImpl* const impl = impl_of(tensor);
  if (!has_plain_keys(impl) || !impl->has_storage() || impl->layout() != at::kStrided) return false;
  bool missing = false;
  info.data = writes ? first_element(impl, missing) : const_cast<void*>(first_element_read(impl, missing));
  info.device = device_of(impl);
  info.type = type_of(impl);
  info.lacks_memory = lacks_memory(impl);
  info.is_inference = impl->is_inference();
  info.dim = static_cast<int32_t>(impl->dim());
  info.numel = impl->numel();
  info.sizes = impl->sizes().data();
  info.strides = impl->strides().data();
  return true;
}

bool describe_object(PyObject* object, bool writes, TensorInfo& info) {
  return describe(tensor_of(object).unsafeGetTensorImpl(), writes, info);
}

__attribute__((always_inline)) inline uint64_t fingerprint_of(const ParameterRecord& record, unsigned used,
                                                              const at::TensorImpl* parameter,
                                                              const at::TensorImpl* gradient,
                                                              const RefreshContext& context) {
  Fingerprint fingerprint;
  fingerprint.add(used);
  add(fingerprint, parameter, context);
  add(fingerprint, gradient, context);
  for (size_t slot = 0; slot < context.slots; ++slot)
    if ((used >> slot & 1u) != 0 && record.slots[slot]) add(fingerprint, impl_of(record.slots[slot].get()), context);
  if (const RecordExtra* const extra = record.extra.get(); extra != nullptr) {
    if (extra->slow) add(fingerprint, impl_of(extra->slow.get()), context);
    if (extra->sums) add(fingerprint, impl_of(extra->sums.get()), context);
    for (const Tensor& kept : extra->codecs.beside)
      if (kept) add(fingerprint, impl_of(kept.get()), context);
  }
  return fingerprint.value();
}

uint64_t fingerprint(const ParameterRecord& record, unsigned used, const RefreshContext& context) {
  const at::TensorImpl* const parameter = parameter_of(record);
  return fingerprint_of(record, used, parameter, gradient_of(parameter), context);
}

bool has_memory(const ParameterRecord& record, unsigned used, const RefreshContext& context) {
  const at::TensorImpl* const parameter = parameter_of(record);
  bool lacks = lacks_memory(parameter) || lacks_memory(gradient_of(parameter));
  for (size_t slot = 0; slot < context.slots; ++slot)
    lacks |= (used >> slot & 1u) != 0 && lacks_memory(impl_of(record.slots[slot].get()));
  for (size_t i = 0; i < context.scalars; ++i) lacks |= lacks_memory(impl_of(record.scalars[i].get()));
  if (const RecordExtra* const extra = record.extra.get(); extra != nullptr) {
    lacks |= extra->slow && lacks_memory(impl_of(extra->slow.get()));
    lacks |= extra->sums && lacks_memory(impl_of(extra->sums.get()));
    for (const Tensor& kept : extra->codecs.beside) lacks |= kept && lacks_memory(impl_of(kept.get()));
  }
  return !lacks;
}

#if PY_VERSION_HEX < 0x030C0000
bool dict_changed(const DictSeen& seen, PyObject* dict) {
  return reinterpret_cast<PyDictObject*>(dict)->ma_version_tag != seen.version;
}
void remember_dict(DictSeen& seen, PyObject* dict) {
  seen.version = reinterpret_cast<PyDictObject*>(dict)->ma_version_tag;
}
#else
bool dict_changed(const DictSeen& seen, PyObject* dict) { return seen.has_other_values(dict); }
void remember_dict(DictSeen& seen, PyObject* dict) { seen.remember_values(dict); }
#endif

bool refresh_unchanged(ParameterRecord& record, const RefreshContext& context) {
  const at::TensorImpl* const parameter = parameter_of(record);
  const at::TensorImpl* const gradient = gradient_of(parameter);
  if (record.active != (gradient != nullptr)) return false;
  if (!record.active) return true;
  const unsigned used = context.used_slots[record.group] | record.own_slots;
  if ((used != 0 || context.needs_state) && (!record.state || dict_changed(record.state_seen, record.state.get())))
    return false;
  if (fingerprint_of(record, used, parameter, gradient, context) != record.fingerprint) return false;
  record.last_gradient = gradient;
  bool missing = false;
  record.operands.pointer[kParameter] = first_element(parameter, missing);
  record.operands.pointer[kGradient] = const_cast<void*>(first_element_read(gradient, missing));
  for (size_t slot = 0; slot < context.slots; ++slot)
    record.operands.pointer[kState0 + slot] =
        (used >> slot & 1u) != 0 ? first_element(impl_of(record.slots[slot].get()), missing) : nullptr;
  for (size_t i = 0; i < context.scalars; ++i)
    record.scalar_values[i] = first_element(impl_of(record.scalars[i].get()), missing);
  if (RecordExtra* const extra = record.extra.get(); extra != nullptr) {
    if (extra->slow) extra->slow_values = first_element(impl_of(extra->slow.get()), missing);
    if (extra->sums) extra->sum_values = first_element(impl_of(extra->sums.get()), missing);
    for (size_t i = 0; i < std::size(extra->codecs.beside); ++i)
      if (const Tensor& kept = extra->codecs.beside[i]; kept)
        extra->codecs.put(i, first_element(impl_of(kept.get()), missing));
  }
  return !missing || has_memory(record, used, context);
}

// A thousand small tensors are ten thousand objects scattered over the heap, and after a pass over their elements each
// of them is a cache miss. They are asked for some tensors ahead: first those whose addresses the record knows, then
// those that these point to, then those behind them.
constexpr int64_t kFar = 24, kMiddle = 16, kNear = 8;

void prefetch_storage(const at::TensorImpl* impl) { prefetch(impl->unsafe_storage().unsafeGetStorageImpl()); }

void prefetch_far(const ParameterRecord& record, const RefreshContext& context) {
  prefetch(record.object.get());
  prefetch_tensor(record.last_gradient);
  prefetch(record.operands.pointer[kParameter]);
  prefetch(record.operands.pointer[kGradient]);
  if (!record.state) return;
  prefetch(record.state.get());
  for (size_t slot = 0; slot < context.slots; ++slot) {
    if (!record.slots[slot]) continue;
    prefetch_tensor(record.slots[slot].get());
    prefetch(record.operands.pointer[kState0 + slot]);
  }
  for (size_t i = 0; i < context.scalars; ++i) {
    prefetch_tensor(record.scalars[i].get());
    prefetch(record.scalar_values[i]);
  }
}

void prefetch_middle(const ParameterRecord& record, const RefreshContext& context) {
  prefetch_tensor(parameter_of(record));
  if (!record.state) return;
  for (size_t slot = 0; slot < context.slots; ++slot)
    if (record.slots[slot]) prefetch_storage(impl_of(record.slots[slot].get()));
  for (size_t i = 0; i < context.scalars; ++i)
    if (record.scalars[i]) prefetch_storage(impl_of(record.scalars[i].get()));
}

void prefetch_near(const ParameterRecord& record) {
  const at::TensorImpl* const parameter = parameter_of(record);
  if (const auto* const meta = autograd_of(parameter); meta != nullptr) prefetch(&meta->grad_);
  prefetch_storage(parameter);
  prefetch_version(parameter);
}

// Flattened: of what it calls some is too large for the compiler to inline by itself.
[[gnu::flatten]] void refresh(ParameterRecord* records, int64_t begin, int64_t end, const RefreshContext& context,
                              uint8_t* unchanged) {
  for (int64_t position = begin; position < end; ++position) {
    if (position + kFar < end) prefetch_far(records[position + kFar], context);
    if (position + kMiddle < end) prefetch_middle(records[position + kMiddle], context);
    if (position + kNear < end) prefetch_near(records[position + kNear]);
    unchanged[position] = refresh_unchanged(records[position], context) ? 1 : 0;
  }
}

void count_versions(ParameterRecord* records, int64_t begin, int64_t end, uint32_t* versions) {
  for (int64_t position = begin; position < end; ++position) {
    if (!records[position].active) continue;
    at::TensorImpl* const parameter = parameter_of(records[position]);
    parameter->bump_version();
    if (versions != nullptr) versions[position] = parameter->version_counter().current_version();
  }
}

bool holds_parameters(PyObject* list, const ParameterRecord* records, size_t count) {
  if (static_cast<size_t>(PySequence_Fast_GET_SIZE(list)) != count) return false;
  PyObject* const* const items = PySequence_Fast_ITEMS(list);
  for (size_t i = 0; i < count; ++i)
    if (records[i].object.get() != items[i]) return false;
  return true;
}

void hold_storage(const at::TensorImpl* impl, std::vector<void*>& held) {
  held.push_back(c10::Storage(impl->storage()).unsafeReleaseStorageImpl());
}

c10::Device cuda_device(int index) { return {c10::kCUDA, static_cast<c10::DeviceIndex>(index)}; }

int exchange_device(int index) {
  return c10::impl::VirtualGuardImpl(c10::kCUDA).exchangeDevice(cuda_device(index)).index();
}

void restore_device(int index) { c10::impl::VirtualGuardImpl(c10::kCUDA).uncheckedSetDevice(cuda_device(index)); }

// Read from the file by torchclip/backends/native.py before the library is loaded.
[[gnu::used]] const char kBuiltFor[] = "torchclip._torch for torch " TORCHCLIP_TORCH;

const ReaderTable kTable = {
    layout_of_records(),
    "torch",
    /*reads_in_threads=*/true,
    [](PyObject* tensor) -> Handle { return at::Tensor(tensor_of(tensor)).unsafeReleaseTensorImpl(); },
    [](Handle tensor) {
      at::Tensor(c10::intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>::reclaim(impl_of(tensor))).reset();
    },
    [](Handle tensor) {
      return THPVariable_Wrap(
          at::Tensor(c10::intrusive_ptr<at::TensorImpl, at::UndefinedTensorImpl>::reclaim_copy(impl_of(tensor))));
    },
    [](Handle tensor, PyObject* object) { return tensor_of(object).unsafeGetTensorImpl() == tensor; },
    [](Handle, visitproc, void*) { return 0; },  // no object of Python's
    [](PyObject* parameter) -> Handle {
      const at::Tensor& gradient = tensor_of(parameter).unsafeGetTensorImpl()->grad();
      return gradient.defined() ? at::Tensor(gradient).unsafeReleaseTensorImpl() : nullptr;
    },
    &describe,
    &describe_object,
    &dict_changed,
    &remember_dict,
    &holds_parameters,
    &refresh,
    &fingerprint,
    &count_versions,
    [](PyObject* tensors) {
      for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tensors); ++i)
        tensor_of(PyTuple_GET_ITEM(tensors, i)).unsafeGetTensorImpl()->bump_version();
    },
    [](PyObject* parameter) { return tensor_of(parameter).unsafeGetTensorImpl()->version_counter().current_version(); },
    [](PyObject* parameter, std::vector<void*>& held) {
      hold_storage(tensor_of(parameter).unsafeGetTensorImpl()->grad().unsafeGetTensorImpl(), held);
    },
    [](Handle tensor, std::vector<void*>& held) { hold_storage(impl_of(tensor), held); },
    [](std::vector<void*>& held) {
      for (void* const storage : held)
        c10::Storage(c10::intrusive_ptr<c10::StorageImpl>::reclaim(static_cast<c10::StorageImpl*>(storage)));
    },
    [] { return at::get_num_threads(); },
    [] {
      return c10::impl::tls_local_dispatch_key_set().included_.has(c10::DispatchKey::FuncTorchDynamicLayerFrontMode);
    },
    &exchange_device,
    &restore_device,
};

}  // namespace
}  // namespace torchclip

PyMODINIT_FUNC PyInit__torch() {
  static PyModuleDef definition = {PyModuleDef_HEAD_INIT,
                                   "torchclip._torch",
                                   "How torchclip._C reads the tensors of the torch that this was built for.",
                                   -1,
                                   torchclip::dtensors::functions,
                                   nullptr,
                                   nullptr,
                                   nullptr,
                                   nullptr};
  PyObject* const module = PyModule_Create(&definition);
  if (module == nullptr) return nullptr;
  PyObject* const table =
      PyCapsule_New(const_cast<torchclip::ReaderTable*>(&torchclip::kTable), torchclip::kReaderCapsule, nullptr);
  if (table == nullptr || PyModule_AddObject(module, "reader", table) != 0) {
    Py_XDECREF(table);
    Py_DECREF(module);
    return nullptr;
  }
  return module;
}
