#include "chunk_loops.h"

#include <algorithm>

namespace torchclip::cpu {
namespace {

// Calls `part(offset, count, row index)` for the parts of a run that lie in one row each.
template <class Part>
void for_each_row(const Rows& rows, int64_t begin, int64_t count, const Part& part) {
  for (int64_t offset = 0; offset < count;) {
    const int64_t element = begin + offset;
    const int64_t length = std::min(rows.inner - element % rows.inner, count - offset);
    part(offset, length, rows.of(element));
    offset += length;
  }
}

// Calls `part(operands, extensions)` for the parts of a run that are drawn for together.
template <class Part>
void for_each_drawn(const Work& work, const Operands& operands, int64_t begin, const Part& part) {
  const DrawPlace place = work.place();
  for (int64_t offset = 0; offset < operands.count;) {
    const int64_t count = place.together(begin + offset, operands.count - offset);
    const Operands own = count == operands.count ? operands : work.moved(operands, offset, count);
    part(own, work.extensions(place, begin + offset));
    offset += count;
  }
}

// The norms of what the rule sees, where that is not the scaled gradient alone.
Partial measure_perturbed(const Work& work, const Operands& operands, const Coefficients& coefficients, int64_t begin) {
  alignas(64) char gradients[kPiece * sizeof(double)];
  Coefficients prepared = coefficients;
  prepared.pipeline.gradient_scale = 1.0;
  Partial total;
  for_each_drawn(work, operands, begin, [&](const Operands& part, const Extensions& extensions) {
    for (int64_t done = 0; done < part.count;) {
      Operands piece = work.moved(part, done, extensions.piece_count(done, part.count));
      extensions.prepare(piece.pointer[kGradient], done, piece.count, coefficients, gradients);
      piece.pointer[kGradient] = gradients;
      total.add(work.loops.direction_prepared(piece, prepared));
      done += piece.count;
    }
  });
  return total;
}

}  // namespace

Coefficients Work::coefficients_of_row(int64_t row_index, bool step_factor) const {
  Coefficients result = coefficients;
  const size_t index = static_cast<size_t>(row_map().first + row_index);
  if (!tables.row_gradient_factors.empty()) result.pipeline.gradient_scale *= tables.row_gradient_factors[index];
  if (step_factor && !tables.row_step_factors.empty())
    for (int coefficient = 0; coefficient < kMaxCoefficients; ++coefficient)
      if ((loops.step_coefficients >> coefficient & 1u) != 0)
        result.rule[coefficient] *= tables.row_step_factors[index];
  return result;
}

int64_t update_apart(const Work& work, const Operands& operands, int64_t begin) {
  const bool in_pieces = work.in_pieces();
  const auto update = [&](const Operands& part, const Coefficients& coefficients, int64_t first) {
    if (!in_pieces) return work.loops.update(part, coefficients);
    int64_t zeros = 0;
    for_each_drawn(work, part, first, [&](const Operands& drawn, const Extensions& extensions) {
      zeros += work.loops.update_pieces(drawn, coefficients, extensions);
    });
    return zeros;
  };
  if (!work.has_row_factors()) return update(operands, work.coefficients, begin);
  int64_t zeros = 0;
  for_each_row(work.row_map().rows, begin, operands.count, [&](int64_t offset, int64_t length, int64_t row_index) {
    zeros += update(work.moved(operands, offset, length), work.coefficients_of_row(row_index, true), begin + offset);
  });
  return zeros;
}

void measure_apart(const Work& work, Measure measure, bool by_rows, const Operands& operands, int64_t begin,
                   int64_t first_row, Partial* partials) {
  const NormLoop loop = work.loops.norm[static_cast<int>(measure)];
  const bool seen = measure == Measure::kDirection;
  const bool has_factors = seen && work.has_row_factors();
  const bool keeps_rows = by_rows && work.has_rows();
  const auto measured = [&](const Operands& part, const Coefficients& coefficients, int64_t first) {
    return seen && work.perturbs() ? measure_perturbed(work, part, coefficients, first) : loop(part, coefficients);
  };
  if (!has_factors && !keeps_rows) {
    partials->add(measured(operands, work.coefficients, begin));
    return;
  }
  for_each_row(work.row_map().rows, begin, operands.count, [&](int64_t offset, int64_t length, int64_t row_index) {
    const Coefficients coefficients = has_factors ? work.coefficients_of_row(row_index, false) : work.coefficients;
    partials[keeps_rows ? row_index - first_row : 0].add(
        measured(work.moved(operands, offset, length), coefficients, begin + offset));
  });
}

}  // namespace torchclip::cpu
