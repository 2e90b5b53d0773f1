// Kernels that are right and kernels with one planted fault each, for test_cuda_emulator.py: `selftest NAME`.
// Real CUDA: nvcc compiles it too.
#include <cooperative_groups.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "selftest.h"

namespace {

constexpr unsigned kWholeWarp = 0xffffffffu;

template <class T>
__device__ T sum_over_block(T value) {
  __shared__ T sums[32];
  for (int distance = 16; distance > 0; distance /= 2) value += __shfl_down_sync(kWholeWarp, value, distance);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  T total = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) total += sums[warp];
  __syncthreads();
  return total;
}

// partials: [gridDim.x]. The block that is last adds them up in a fixed order.
template <class T>
__global__ void __launch_bounds__(1024)
    sum_kernel(const T* values, int64_t count, T* partials, unsigned* blocks_done, T* result) {
  __shared__ bool is_last;
  T sum = 0;
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count; i += int64_t{gridDim.x} * blockDim.x)
    sum += __ldg(values + i);
  sum = sum_over_block(sum);
  if (threadIdx.x == 0) {
    partials[blockIdx.x] = sum;
    __threadfence();
    is_last = atomicInc(blocks_done, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  T total = 0;
  for (unsigned block = threadIdx.x; block < gridDim.x; block += blockDim.x) total += __ldcg(partials + block);
  total = sum_over_block(total);
  if (threadIdx.x == 0) *result = total;
}

// Each thread adds its neighbour's number to its own, before and after a barrier of the whole grid.
__global__ void grid_kernel(float* values, float* result) {
  const unsigned count = gridDim.x * blockDim.x, i = blockIdx.x * blockDim.x + threadIdx.x;
  __shared__ float mine[64];
  mine[threadIdx.x] = static_cast<float>(i);
  values[i] = mine[threadIdx.x];
  cooperative_groups::this_grid().sync();
  result[i] = values[count - 1 - i] + mine[threadIdx.x];
}

struct Table {
  float factor[1024];
};

// Every kind of warp operation, 16-byte accesses, dynamic shared memory, and a table in the parameters.
__global__ void mixed_kernel(const Table __grid_constant__ table, const float4* from, float4* to, unsigned* votes) {
  TORCHCLIP_DYNAMIC_SHARED(float, staged);
  const unsigned i = threadIdx.x;
  float4 value = __ldcs(from + i);
  value.x *= table.factor[i];
  staged[i] = value.x;
  __syncthreads();
  value.y = staged[blockDim.x - 1 - i];
  value.z = __shfl_xor_sync(kWholeWarp, value.z, 1);
  value.w = __fadd_rn(__shfl_sync(kWholeWarp, value.w, 5), static_cast<float>(__shfl_down_sync(kWholeWarp, i, 8, 16)));
  __stcs(to + i, value);
  const unsigned odd = __ballot_sync(kWholeWarp, i % 2);
  if (i == 0) votes[0] = odd;
  const int any = __any_sync(kWholeWarp, i == 3), all = __all_sync(kWholeWarp, i < 64);
  if (i == 0) votes[1] = static_cast<unsigned>(any * 2 + all);
  __syncwarp();
  atomicAdd(votes + 2, 1u);
  if (i < 16) votes[3] = static_cast<unsigned>(__shfl_sync(0xffffu, static_cast<long long>(i), 7));
}

// The planted faults.

__global__ void missing_barrier_kernel(float* result) {
  __shared__ float values[64];
  values[threadIdx.x] = static_cast<float>(threadIdx.x);
  result[threadIdx.x] = values[63 - threadIdx.x];
}

__global__ void divergent_barrier_kernel(float* result) {
  if (threadIdx.x < 16) __syncthreads();
  result[threadIdx.x] = 1;
}

__global__ void two_barriers_kernel(float* result) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  result[threadIdx.x] = 1;
}

__global__ void missing_lane_kernel(float* result) {
  if (threadIdx.x != 9) result[threadIdx.x] = __shfl_down_sync(kWholeWarp, 1.0f, 1);
}

__global__ void out_of_bounds_kernel(float* result) { result[threadIdx.x + 1] = 1; }

__global__ void shared_out_of_bounds_kernel(float* result) {
  __shared__ float values[32];
  values[threadIdx.x] = 1;
  __syncthreads();
  result[threadIdx.x] = values[0];
}

__global__ void misaligned_load_kernel(float* result) {
  const float4 value = __ldcs(reinterpret_cast<const float4*>(result + 1));
  result[0] = value.x;
}

// What a block counts by must stand between fences; there is one block, so that each count is the last.
__global__ void count_without_fence_kernel(float* result) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) atomicInc(reinterpret_cast<unsigned*>(result), 0);
}

__global__ void read_without_fence_kernel(float* result) {
  __threadfence();
  if (threadIdx.x == 0) atomicInc(reinterpret_cast<unsigned*>(result), 0);
  __syncthreads();
  result[1 + threadIdx.x % 2] = result[0];
}

__global__ void misaligned_access_kernel(float* result) { *reinterpret_cast<float4*>(result + 1) = float4{1, 2, 3, 4}; }

template <class T>
void sum() {
  constexpr unsigned kMostBlocks = 100;
  std::vector<T> host(100000);
  for (size_t i = 0; i < host.size(); ++i) host[i] = static_cast<T>(i % 1000);
  T* const values = device_array<T>(host.size());
  T* const partials = device_array<T>(kMostBlocks);
  T* const result = device_array<T>(1);
  unsigned* const blocks_done = device_array<unsigned>(1);
  copy(values, host.data(), host.size());
  check(cudaMemsetAsync(blocks_done, 0, sizeof(unsigned), nullptr), "cudaMemsetAsync");
  for (const unsigned blocks : {1u, 3u, kMostBlocks}) {
    for (const unsigned threads : {32u, 96u, 256u, 1024u}) {
      TORCHCLIP_LAUNCH((sum_kernel<T>), blocks, threads, 0, nullptr, values, static_cast<int64_t>(host.size()),
                       partials, blocks_done, result);
      print(result, 1);
    }
  }
  for (void* const pointer : {static_cast<void*>(values), static_cast<void*>(partials), static_cast<void*>(result),
                              static_cast<void*>(blocks_done)})
    check(cudaFree(pointer), "cudaFree");
}

void grid() {
  float* const values = device_array<float>(4 * 64);
  float* const result = device_array<float>(4 * 64);
  TORCHCLIP_LAUNCH_COOPERATIVE(grid_kernel, 4, 64, 0, nullptr, values, result);
  print(result, 4 * 64);
  TORCHCLIP_LAUNCH_COOPERATIVE(grid_kernel, 1000000, 64, 0, nullptr, values, result);
}

void mixed() {
  constexpr size_t kThreads = 64;
  Table table;
  for (float& factor : table.factor) factor = 2;
  std::vector<float4> host(kThreads);
  for (size_t i = 0; i < kThreads; ++i) host[i] = {float(i), 0, float(i), float(i)};
  float4* const values = device_array<float4>(kThreads);
  unsigned* const votes = device_array<unsigned>(4);
  copy(values, host.data(), kThreads);
  check(cudaMemsetAsync(votes, 0, 4 * sizeof(unsigned), nullptr), "cudaMemsetAsync");
  TORCHCLIP_LAUNCH(mixed_kernel, 1, kThreads, kThreads * sizeof(float), nullptr, table, values, values, votes);
  print(reinterpret_cast<const float*>(values), 4 * kThreads);
  print(votes, 4);
}

void planted(void (*kernel)(float*), unsigned threads = 64) {
  float* const result = device_array<float>(64);
  TORCHCLIP_LAUNCH(kernel, 1, threads, 0, nullptr, result);
  print(result, 64);
}

void launch_too_large() { planted(missing_barrier_kernel, 2048); }

void run(const char* name) {
  const auto is = [name](const char* other) { return strcmp(name, other) == 0; };
  if (is("sum_float")) return sum<float>();
  if (is("sum_double")) return sum<double>();
  if (is("sum_int")) return sum<int>();
  if (is("grid")) return grid();
  if (is("mixed")) return mixed();
  if (is("missing_barrier")) return planted(missing_barrier_kernel);
  if (is("divergent_barrier")) return planted(divergent_barrier_kernel);
  if (is("two_barriers")) return planted(two_barriers_kernel);
  if (is("missing_lane")) return planted(missing_lane_kernel);
  if (is("out_of_bounds")) return planted(out_of_bounds_kernel);
  if (is("shared_out_of_bounds")) return planted(shared_out_of_bounds_kernel);
  if (is("count_without_fence")) return planted(count_without_fence_kernel);
  if (is("read_without_fence")) return planted(read_without_fence_kernel);
  if (is("misaligned_load")) return planted(misaligned_load_kernel);
  if (is("misaligned_access")) return planted(misaligned_access_kernel);
  if (is("launch_too_large")) return launch_too_large();
#if defined(TORCHCLIP_CUDA_EMULATOR)
  if (run_emulator_test(name)) return;
#endif
  throw std::runtime_error(std::string("no test is called ") + name);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    for (int i = 1; i < argc; ++i) run(argv[i]);
  } catch (const std::exception& error) {
    fflush(stdout);
    fprintf(stderr, "error: %s\n", error.what());
    return 3;
  }
  return 0;
}
