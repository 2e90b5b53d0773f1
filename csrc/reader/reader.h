// What a step asks about torch's tensors, as one table of functions. There are two: torch.cpp reads torch's own
// structures, and is built for one torch; dlpack.cpp asks by DLPack and Python, and serves any.
#pragma once

#include <Python.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "../step/tables.h"

namespace torchclip {

struct ParameterRecord;

// DLPack's numbers.
enum DeviceType : int32_t { kCpu = 1, kCuda = 2 };
struct Device {
  int32_t type = kCpu;
  int32_t index = 0;  // 0 on the CPU
  bool is_cpu() const { return type == kCpu; }
  bool operator==(const Device&) const = default;
};

// DLPack's numbers too.
struct ElementType {
  enum Code : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kComplex = 5 };
  uint8_t code = 0;
  uint8_t bits = 0;
  bool operator==(const ElementType&) const = default;
};
constexpr ElementType kFloatType{ElementType::kFloat, 32}, kDoubleType{ElementType::kFloat, 64},
    kLongType{ElementType::kInt, 64}, kShortType{ElementType::kInt, 16}, kByteType{ElementType::kUInt, 8};

// A tensor whose elements can be reached through its memory. Sizes and strides are its own: they hold while it is not
// changed.
struct TensorInfo {
  void* data = nullptr;  // of the first element
  Device device;
  ElementType type;
  bool lacks_memory = false;  // though it has elements: FSDP frees that of parameters it has gathered
  bool is_inference = false;  // has no version to count up, and torch writes none
  int32_t dim = 0;
  int64_t numel = 0;
  const int64_t* sizes = nullptr;    // [dim]
  const int64_t* strides = nullptr;  // [dim], in elements
};

// What a step has of the tensors of a reader at the moment.
struct RefreshContext {
  const unsigned* used_slots = nullptr;  // [param groups], bits
  size_t slots = 0, scalars = 0;         // of the rule
  bool needs_state = false;              // though a group uses no slot: for numbers, sums or slow weights
  // Under the emulator of the tests, by the address of a tensor on the CPU: which device that stands for.
  int (*number_of)(const void*) = nullptr;
};

// A reference to a tensor as the table keeps it: torch's own, or a Python object's.
using Handle = void*;

struct ReaderTable {
  uint64_t layout;        // layout_of_records(): of the structures that both sides share
  const char* name;       // "torch" or "dlpack"
  bool reads_in_threads;  // refresh and count_versions may run in other threads, while the caller's holds the GIL

  Handle (*acquire)(PyObject* tensor);
  void (*release)(Handle tensor);
  PyObject* (*object_of)(Handle tensor);  // a new reference
  bool (*is_same)(Handle tensor, PyObject* object);
  int (*visit)(Handle tensor, visitproc visit, void* argument);  // for Python's garbage collector
  Handle (*gradient_of)(PyObject* parameter);                    // null where there is none

  // False where the elements cannot be reached through a data pointer: a sparse or nested tensor, and one that stands
  // for others, such as a wrapper subclass, what torch.func's transforms see of a tensor, a lazily negated or
  // conjugated view, or zeros without memory. `writes`: what a lazy clone shares is to be copied.
  bool (*describe)(Handle tensor, bool writes, TensorInfo& info);
  bool (*describe_object)(PyObject* tensor, bool writes, TensorInfo& info);

  bool (*dict_changed)(const struct DictSeen& seen, PyObject* dict);
  void (*remember_dict)(struct DictSeen& seen, PyObject* dict);
  // Whether a list or tuple holds these records' parameters, in order.
  bool (*holds_parameters)(PyObject* list, const ParameterRecord* records, size_t count);
  // unchanged: [end], written from `begin` on; 1 where nothing but addresses changed since the record was last found to
  // be served, which are then brought up to date. It neither calls a user's code nor changes a reference count in a
  // table that reads in threads.
  void (*refresh)(ParameterRecord* records, int64_t begin, int64_t end, const RefreshContext& context,
                  uint8_t* unchanged);
  // Of a parameter's gradient and state with the memory of each. A value of no meaning but to be compared.
  uint64_t (*fingerprint)(const ParameterRecord& record, unsigned used_slots, const RefreshContext& context);
  // Counts up autograd's version of each parameter that is active. versions: [end], written from `begin` on with those
  // after; null where nobody asks.
  void (*count_versions)(ParameterRecord* records, int64_t begin, int64_t end, uint32_t* versions);
  void (*count_versions_of)(PyObject* tensors);  // a tuple
  uint32_t (*version_of)(PyObject* parameter);

  // The memory of tensors, so that another thread, which may take a tensor away, does not take it too.
  void (*hold_gradient)(PyObject* parameter, std::vector<void*>& held);
  void (*hold)(Handle tensor, std::vector<void*>& held);
  void (*let_go)(std::vector<void*>& held);

  int (*thread_count)();   // of the calling thread, as torch.set_num_threads has it
  bool (*in_transform)();  // of torch.func, where every tensor that is made would be a wrapper
  // Makes one of CUDA's devices current, and the one before current again, without making a context on one that was
  // never used.
  int (*exchange_device)(int index);
  void (*restore_device)(int index);
};

// The table in use, one for the life of the process.
const ReaderTable& reader();
// Chooses it: that of another extension, or of DLPack where it is null. Throws ValueError for one of another build.
void use_reader(const ReaderTable* table);
bool has_reader();
const ReaderTable& dlpack_reader();

// Where a tensor's elements lie now; null where they cannot be reached.
inline const void* memory_of(PyObject* tensor) {
  TensorInfo info;
  return reader().describe_object(tensor, /*writes=*/false, info) ? info.data : nullptr;
}

// The name of a capsule that holds a table.
constexpr const char* kReaderCapsule = "torchclip.reader";

// A handle with an owner.
class Tensor {
 public:
  Tensor() = default;
  explicit Tensor(Handle handle) : handle_(handle) {}
  static Tensor of(PyObject* object) { return Tensor(reader().acquire(object)); }
  Tensor(Tensor&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Tensor& operator=(Tensor&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;
  ~Tensor() { reset(); }

  Handle get() const { return handle_; }
  explicit operator bool() const { return handle_ != nullptr; }
  void reset() {
    if (handle_ != nullptr) reader().release(std::exchange(handle_, nullptr));
  }

 private:
  Handle handle_ = nullptr;
};

// What holds memory while a pass runs without the GIL; let go of where it is held.
class HeldMemory {
 public:
  HeldMemory() = default;
  HeldMemory(const HeldMemory&) = delete;
  HeldMemory& operator=(const HeldMemory&) = delete;
  ~HeldMemory() { let_go(); }
  void let_go() {
    if (!held_.empty()) reader().let_go(held_);
    held_.clear();
  }
  bool empty() const { return held_.empty(); }
  std::vector<void*>& all() { return held_; }

 private:
  std::vector<void*> held_;
};

}  // namespace torchclip
