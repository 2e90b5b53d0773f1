#include "graph.h"

#include <utility>
#include <vector>

#include "emulator/control.h"
#include "machine.h"

namespace emulator {
namespace {

struct Node {
  int device;
  std::function<cudaError_t()> work;
};

struct Graph {
  std::vector<Node> nodes;
  bool capturing = false;
  bool spoilt = false;
};

Graph& graph() {
  static Graph last;
  return last;
}

}  // namespace

bool is_capturing() { return graph().capturing; }
bool is_spoilt() { return graph().spoilt; }

cudaError_t run_or_record(std::function<cudaError_t()> work) {
  if (!is_capturing()) return work();
  if (is_spoilt()) return record(cudaErrorStreamCaptureInvalidated);
  graph().nodes.push_back({current_device(), std::move(work)});
  return cudaSuccess;
}

cudaError_t outside_capture() {
  if (!is_capturing()) return cudaSuccess;
  graph().spoilt = true;
  return cudaErrorStreamCaptureUnsupported;
}

}  // namespace emulator

using emulator::graph;

void torchclip_emulator_begin_capture() { graph() = {{}, true, false}; }

int64_t torchclip_emulator_end_capture() {
  graph().capturing = false;
  if (std::exchange(graph().spoilt, false)) {
    graph().nodes.clear();
    return -1;
  }
  return static_cast<int64_t>(graph().nodes.size());
}

int torchclip_emulator_replay() {
  const int before = emulator::current_device();
  cudaError_t error = cudaSuccess;
  for (const emulator::Node& node : graph().nodes) {
    emulator::make_current(node.device);
    error = node.work();
    if (error != cudaSuccess) break;
  }
  emulator::make_current(before);
  return error;
}
