// The numbers on the device that the first finish of a step reads and writes.
#pragma once

#include "cuda_testing.h"

namespace torchclip::cuda {

struct Numbers {
  double* counters = numbers_on_device(4, 0.0);
  double* count = numbers_on_device(1, 0.0);
  double* mean = numbers_on_device(1, 0.0);
  double* variance = numbers_on_device(1, 0.0);
  double* window = numbers_on_device(4, 0.0);
  double* b_squared = numbers_on_device(1, 4.0);
  double* step = numbers_on_device(1, 7.0);
  const void* loss = numbers_on_device(1, 1.5);
  DType loss_dtype = DType::kFloat64;
  double* lr_scale = numbers_on_device(1, 0.0);
  float* grad_scale = nullptr;
  float* found_inf = nullptr;
  uint32_t* blocks_done = on_device(std::vector<uint32_t>{0});
  StepNumbers* numbers = on_device(std::vector<StepNumbers>{{-1, -1, -1}});
};

// Without units and rows.
inline FinishArguments finish_with(const Modifiers& modifiers, const Numbers& numbers) {
  FinishArguments finish{};
  finish.counters = numbers.counters;
  finish.norm_count = numbers.count;
  finish.norm_mean = numbers.mean;
  finish.norm_variance = numbers.variance;
  finish.norm_window = numbers.window;
  finish.loss = numbers.loss;
  finish.loss_dtype = static_cast<int32_t>(numbers.loss_dtype);
  finish.b_squared = numbers.b_squared;
  finish.step = numbers.step;
  finish.lr_scale = numbers.lr_scale;
  finish.grad_scale = numbers.grad_scale;
  finish.found_inf = numbers.found_inf;
  finish.numbers = numbers.numbers;
  finish.blocks_done = numbers.blocks_done;
  finish.fills_coefficients = 1;
  finish.modifiers = modifiers;
  return finish;
}

// `unit_chunks`: where the partial sums of each unit begin, and where the last one's end.
inline void measure_units(FinishArguments& finish, const std::vector<int32_t>& unit_chunks) {
  const size_t units = unit_chunks.size() - 1;
  finish.sums = {on_device(std::vector<Partial>(static_cast<size_t>(unit_chunks.back()))), on_device(unit_chunks),
                 static_cast<int32_t>(units)};
  finish.grad_norm = numbers_on_device(units);
  finish.clip_factor = numbers_on_device(units);
}

// Rows of coefficients to be made from these.
inline void make_coefficients_from(FinishArguments& finish, const std::vector<CoefficientSource>& sources) {
  finish.coefficients.count = static_cast<int32_t>(sources.size());
  finish.coefficients.sources = on_device(sources);
  finish.coefficients.sets = on_device(std::vector<Coefficients>(sources.size()));
  finish.coefficients.next_scalars = numbers_on_device(sources.size() * kMaxScalars);
}

}  // namespace torchclip::cuda
