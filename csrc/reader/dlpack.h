// The parts of DLPack's interface for C that the reader uses (https://dmlc.github.io/dlpack/latest, version 1): the
// structures as the standard lays them out.
#pragma once

#include <cstdint>

#include "reader.h"

namespace torchclip {

namespace dlpack {

constexpr uint32_t kMajorVersion = 1;

struct DataType {
  uint8_t code;
  uint8_t bits;
  uint16_t lanes;
};

struct TensorView {
  void* data;
  Device device;
  int32_t ndim;
  DataType dtype;
  int64_t* shape;
  int64_t* strides;
  uint64_t byte_offset;
};

struct Version {
  uint32_t major;
  uint32_t minor;
};

struct ManagedTensor {
  Version version;
  void* context;
  void (*deleter)(ManagedTensor* self);
  uint64_t flags;
  TensorView tensor;
};

struct Header {
  Version version;
  Header* previous;
};

struct ExchangeTable {
  Header header;
  void* allocate;
  int (*managed_from_object)(void* object, ManagedTensor** out);
  void* object_from_managed;
  int (*view_of_object)(void* object, TensorView* out);
  int (*current_work_stream)(int32_t device_type, int32_t device_index, void** out);
};

}  // namespace dlpack

// torch's current stream on a device.
void* current_work_stream(const Device& device);

}  // namespace torchclip
