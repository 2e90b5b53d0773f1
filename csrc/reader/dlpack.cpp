// The portable form of the reader: DLPack's interface for C, and Python's own for what that does not say. It knows no
// structure of torch, and serves any.
#include "dlpack.h"

#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "fingerprint.h"
#include "parameter_record.h"
#include "python_tensor.h"

namespace torchclip {
namespace {

PyObject* object_of(Handle tensor) { return static_cast<PyObject*>(tensor); }

const dlpack::ExchangeTable& exchange() {
  static const dlpack::ExchangeTable* const table = [] {
    const Object capsule = Object::take(kept_attribute("torch", "Tensor")).attribute("__dlpack_c_exchange_api__");
    void* pointer = PyCapsule_GetPointer(capsule.get(), "dlpack_exchange_api");
    if (pointer == nullptr) throw PythonError();
    dlpack::Header* header = static_cast<dlpack::Header*>(pointer);
    while (header != nullptr && header->version.major != dlpack::kMajorVersion) header = header->previous;
    if (header == nullptr)
      throw std::runtime_error("this torch speaks another version of DLPack than 1: update torchclip");
    return reinterpret_cast<const dlpack::ExchangeTable*>(header);
  }();
  return *table;
}

// False where torch refuses: the tensor has no elements that a pointer leads to.
bool view(PyObject* tensor, dlpack::TensorView& out) {
  if (exchange().view_of_object(tensor, &out) != 0) {
    PyErr_Clear();
    return false;
  }
  out.data = static_cast<char*>(out.data) + out.byte_offset;
  return true;
}

int64_t count_of(const dlpack::TensorView& view) {
  int64_t count = 1;
  for (int32_t dimension = 0; dimension < view.ndim; ++dimension) count *= view.shape[dimension];
  return count;
}

// torch adds a view's offset to the address of its storage even where that is null: an address as low as an offset may
// be that of no memory.
bool may_lack_memory(const void* data) { return reinterpret_cast<uintptr_t>(data) < uintptr_t{1} << 40; }

bool lacks_memory(PyObject* tensor, const dlpack::TensorView& view) {
  if (!may_lack_memory(view.data) || count_of(view) == 0) return false;
  if (view.data == nullptr) return true;
  return to_int(Object::borrow(tensor).call("untyped_storage").call("data_ptr").get()) == 0;
}

// Of a ROCm build too, whose devices go by CUDA's names in torch.
Device device_of(const dlpack::TensorView& view) {
  constexpr int32_t kRocm = 10;
  return {view.device.type == kRocm ? static_cast<int32_t>(kCuda) : view.device.type,
          view.device.type == kCpu ? 0 : view.device.index};
}

bool describe_object(PyObject* tensor, bool, TensorInfo& info) {
  dlpack::TensorView seen;
  if (!view(tensor, seen) || seen.dtype.lanes != 1 || is_wrapper(tensor) || is_lazy(tensor, seen)) return false;
  static PyObject* const is_inference = kept_attribute("torch", "Tensor.is_inference");
  info.data = seen.data;
  info.device = device_of(seen);
  info.type = {seen.dtype.code, seen.dtype.bits};
  info.lacks_memory = lacks_memory(tensor, seen);
  info.is_inference = ask(is_inference, tensor);
  info.dim = seen.ndim;
  info.numel = count_of(seen);
  info.sizes = seen.shape;
  info.strides = seen.strides;
  return true;
}

Object gradient_of(PyObject* parameter) {
  static PyObject* const name = interned({"grad"}).front().release();
  static PyObject* const property = kept_attribute("torch", "Tensor.grad");
  return is_plain(parameter) ? bind(property, parameter) : Object::take(PyObject_GetAttr(parameter, name));
}

// A tensor's Python type, device, element type, sizes and strides.
void add(Fingerprint& fingerprint, PyObject* tensor, const dlpack::TensorView& view, const RefreshContext& context) {
  fingerprint.add(reinterpret_cast<uintptr_t>(Py_TYPE(tensor)));
  if (context.number_of != nullptr) fingerprint.add(static_cast<uint64_t>(context.number_of(view.data)));
  fingerprint.add(static_cast<uint64_t>(view.device.type) << 32 | static_cast<uint32_t>(view.device.index));
  fingerprint.add(static_cast<uint64_t>(view.dtype.code) << 48 | static_cast<uint64_t>(view.dtype.bits) << 32 |
                  static_cast<uint32_t>(view.ndim));
  for (int32_t i = 0; i < view.ndim; ++i) fingerprint.add(static_cast<uint64_t>(view.shape[i]));
  for (int32_t i = 0; i < view.ndim; ++i) fingerprint.add(static_cast<uint64_t>(view.strides[i]));
}

// What a step reads and writes of one parameter.
struct Views {
  dlpack::TensorView parameter, gradient, slots[kMaxSlots], scalars[kMaxScalars], slow, sums, beside[1 + kMaxSlots];
  bool has_memory = true;

  bool see(PyObject* tensor, dlpack::TensorView& out) {
    if (!view(tensor, out) || (out.dtype.code == ElementType::kComplex && is_lazy(tensor, out))) return false;
    if (may_lack_memory(out.data) && lacks_memory(tensor, out)) has_memory = false;
    return true;
  }
  bool see(const Tensor& tensor, dlpack::TensorView& out) { return see(object_of(tensor.get()), out); }

  // False where one of them cannot be seen.
  bool read(const ParameterRecord& record, PyObject* gradient_object, unsigned used, const RefreshContext& context,
            uint64_t& fingerprint) {
    Fingerprint sum;
    sum.add(used);
    if (!see(record.object.get(), parameter) || !see(gradient_object, gradient)) return false;
    add(sum, record.object.get(), parameter, context);
    add(sum, gradient_object, gradient, context);
    const auto read_state = [&](const Tensor& tensor, dlpack::TensorView& out) {
      if (!tensor) return true;
      if (!see(tensor, out)) return false;
      add(sum, object_of(tensor.get()), out, context);
      return true;
    };
    for (size_t slot = 0; slot < context.slots; ++slot)
      if ((used >> slot & 1u) != 0 && !read_state(record.slots[slot], slots[slot])) return false;
    for (size_t i = 0; i < context.scalars; ++i)
      if (!read_state(record.scalars[i], scalars[i])) return false;
    if (const RecordExtra* const extra = record.extra.get(); extra != nullptr) {
      if (!read_state(extra->slow, slow) || !read_state(extra->sums, sums)) return false;
      for (size_t i = 0; i < std::size(beside); ++i)
        if (!read_state(extra->codecs.beside[i], beside[i])) return false;
    }
    fingerprint = sum.value();
    return true;
  }
};

uint64_t fingerprint(const ParameterRecord& record, unsigned used, const RefreshContext& context) {
  Views views;
  uint64_t value = 0;
  views.read(record, gradient_of(record.object.get()).get(), used, context, value);
  return value;
}

// Whether a parameter, or what is kept of its state, is a lazily negated view.
bool has_negated(const ParameterRecord& record) {
  const auto is_view = [](const Tensor& tensor) { return tensor && is_negated(object_of(tensor.get())); };
  const RecordExtra* const extra = record.extra.get();
  return is_negated(record.object.get()) || std::any_of(std::begin(record.slots), std::end(record.slots), is_view) ||
         std::any_of(std::begin(record.scalars), std::end(record.scalars), is_view) ||
         (extra != nullptr && (is_view(extra->slow) || is_view(extra->sums) ||
                               std::any_of(std::begin(extra->codecs.beside), std::end(extra->codecs.beside), is_view)));
}

// `moved` becomes true where the parameter or its state lies elsewhere than before.
bool refresh_unchanged(ParameterRecord& record, const RefreshContext& context, bool& moved) {
  const auto follow = [&moved](void*& known, void* now) { moved |= std::exchange(known, now) != now; };
  const Object gradient = gradient_of(record.object.get());
  if (record.active == gradient.is_none()) return false;
  if (!record.active) return true;
  const unsigned used = context.used_slots[record.group] | record.own_slots;
  if ((used != 0 || context.needs_state) && (!record.state || record.state_seen.has_other_values(record.state.get())))
    return false;
  Views views;
  uint64_t value = 0;
  if (!views.read(record, gradient.get(), used, context, value) || value != record.fingerprint) return false;
  follow(record.operands.pointer[kParameter], views.parameter.data);
  record.operands.pointer[kGradient] = views.gradient.data;
  for (size_t slot = 0; slot < context.slots; ++slot)
    follow(record.operands.pointer[kState0 + slot], (used >> slot & 1u) != 0 ? views.slots[slot].data : nullptr);
  for (size_t i = 0; i < context.scalars; ++i) follow(record.scalar_values[i], views.scalars[i].data);
  if (RecordExtra* const extra = record.extra.get(); extra != nullptr) {
    if (extra->slow) follow(extra->slow_values, views.slow.data);
    if (extra->sums) follow(extra->sum_values, views.sums.data);
    for (size_t i = 0; i < std::size(views.beside); ++i) {
      if (!extra->codecs.beside[i]) continue;
      moved |= extra->codecs.at(i) != views.beside[i].data;
      extra->codecs.put(i, views.beside[i].data);
    }
  }
  return views.has_memory;
}

// What is new by its kind, geometry or Python object is looked at anew elsewhere. What is left is a tensor that becomes
// a lazily negated view. To ask lets other threads run, which may put another gradient in the place of one that was
// read: gradients are asked before an address is, and after every other question all is read again. A gradient is
// asked in every step; parameters and state, which would make a step of AdamW take 1.4 times as long, where they have
// moved. One that is given a view of its own memory through `.data` is not noticed.
void refresh(ParameterRecord* records, int64_t begin, int64_t end, const RefreshContext& context, uint8_t* unchanged) {
  constexpr int64_t kAhead = 8;
  std::vector<int64_t> moved;
  do {
    for (const int64_t position : moved)
      if (has_negated(records[position])) records[position].fingerprint = 0;
    moved.clear();
    for (int64_t position = begin; position < end; ++position) {
      const Object gradient = gradient_of(records[position].object.get());
      unchanged[position] = gradient.is_none() || !is_negated(gradient.get()) ? 1 : 0;
    }
    for (int64_t position = begin; position < end; ++position) {
      if (unchanged[position] == 0) continue;
      if (position + kAhead < end) {
        __builtin_prefetch(records[position + kAhead].object.get());
        __builtin_prefetch(records[position + kAhead].state.get());
      }
      bool has_moved = false;
      unchanged[position] = refresh_unchanged(records[position], context, has_moved) ? 1 : 0;
      if (has_moved) moved.push_back(position);
    }
  } while (!moved.empty());
}

void count_versions_of(PyObject* tensors) {
  static PyObject* const count = kept_attribute("torch.autograd.graph", "increment_version");
  Object::take(PyObject_CallFunctionObjArgs(count, tensors, nullptr));
}

uint32_t version_of(PyObject* parameter) {
  PyObject* const version = PyObject_GetAttrString(parameter, "_version");
  if (version != nullptr) return static_cast<uint32_t>(to_int(Object::take(version).get()));
  PyErr_Clear();  // an inference tensor has none
  return 0;
}

void count_versions(ParameterRecord* records, int64_t begin, int64_t end, uint32_t* versions) {
  const auto is_active = [](const ParameterRecord& record) { return record.active; };
  const Object tensors = make_list(static_cast<size_t>(std::count_if(records + begin, records + end, is_active)));
  size_t count = 0;
  for (int64_t position = begin; position < end; ++position)
    if (records[position].active) set_item(tensors, count++, records[position].object);
  count_versions_of(tensors.get());
  for (int64_t position = begin; versions != nullptr && position < end; ++position)
    if (records[position].active) versions[position] = version_of(records[position].object.get());
}

bool holds_parameters(PyObject* list, const ParameterRecord* records, size_t count) {
  const bool is_list = PyList_Check(list);
  if (static_cast<size_t>(is_list ? PyList_Size(list) : PyTuple_Size(list)) != count) return false;
  for (size_t i = 0; i < count; ++i) {
    const Py_ssize_t place = static_cast<Py_ssize_t>(i);
    if (records[i].object.get() != (is_list ? PyList_GetItem(list, place) : PyTuple_GetItem(list, place))) return false;
  }
  return true;
}

void hold(Handle tensor, std::vector<void*>& held) {
  dlpack::ManagedTensor* managed = nullptr;
  if (exchange().managed_from_object(tensor, &managed) != 0) throw PythonError();
  held.push_back(managed);
}

// A function of torch.cuda, whose last word after an underscore is for those who know what they do.
int change_device(const char* name, int index) {
  const Object cuda = Object::take(kept_attribute("torch", "cuda"));
  return static_cast<int>(to_int(cuda.call(name, to_python(index)).get()));
}

}  // namespace

void* current_work_stream(const Device& device) {
  void* stream = nullptr;
  if (exchange().current_work_stream(device.type, device.index, &stream) != 0) throw PythonError();
  return stream;
}

const ReaderTable& dlpack_reader() {
  static const ReaderTable table = {
      layout_of_records(),
      "dlpack",
      /*reads_in_threads=*/false,
      [](PyObject* tensor) -> Handle { return Object::borrow(tensor).release(); },
      [](Handle tensor) { Py_DECREF(object_of(tensor)); },
      [](Handle tensor) { return Object::borrow(object_of(tensor)).release(); },
      [](Handle tensor, PyObject* object) { return tensor == object; },
      [](Handle tensor, visitproc visit, void* argument) { return visit(object_of(tensor), argument); },
      [](PyObject* parameter) -> Handle {
        Object gradient = gradient_of(parameter);
        return gradient.is_none() ? nullptr : gradient.release();
      },
      [](Handle tensor, bool writes, TensorInfo& info) { return describe_object(object_of(tensor), writes, info); },
      &describe_object,
      [](const DictSeen& seen, PyObject* dict) { return seen.has_other_values(dict); },
      [](DictSeen& seen, PyObject* dict) { seen.remember_values(dict); },
      &holds_parameters,
      &refresh,
      &fingerprint,
      &count_versions,
      &count_versions_of,
      &version_of,
      [](PyObject* parameter, std::vector<void*>& held) { hold(gradient_of(parameter).get(), held); },
      &hold,
      [](std::vector<void*>& held) {
        for (void* const each : held) {
          dlpack::ManagedTensor* const managed = static_cast<dlpack::ManagedTensor*>(each);
          managed->deleter(managed);
        }
      },
      [] {
        static PyObject* const count = kept_attribute("torch", "get_num_threads");
        return static_cast<int>(to_int(Object::take(PyObject_CallFunctionObjArgs(count, nullptr)).get()));
      },
      [] {
        static PyObject* const stack = kept_attribute("torch", "_C._functorch.peek_interpreter_stack");
        return !Object::take(PyObject_CallFunctionObjArgs(stack, nullptr)).is_none();
      },
      [](int index) { return change_device("_exchange_device", index); },
      [](int index) {
        try {
          change_device("_maybe_exchange_device", index);
        } catch (PythonError&) {
          // At the end of a call that may have failed already: what is current then is for torch to say.
        }
      },
  };
  return table;
}

}  // namespace torchclip
