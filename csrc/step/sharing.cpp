#include "sharing.h"

#include <algorithm>

namespace torchclip {
namespace {

int32_t to_index(PyObject* value) { return static_cast<int32_t>(to_int(value)); }

// From (of, share, units, rows, row_count, add).
Cells cells_from(PyObject* tuple) {
  const std::vector<Object> parts = items_of(tuple);
  if (parts.size() != 6) throw TypeError("cells are (of, share, units, rows, row_count, add)");
  return {vector_of(parts[0].get(), to_index),
          vector_of(parts[1].get(), to_double),
          vector_of(parts[2].get(), to_index),
          vector_of(parts[3].get(), [](PyObject* rows) { return vector_of(rows, to_int); }),
          to_int(parts[4].get()),
          parts[5]};
}

DrawPlace place_from(PyObject* tuple) {
  const std::vector<int64_t> numbers = vector_of(tuple, to_int);
  if (numbers.size() != 4) throw TypeError("a place is (number, offset, inner, outer)");
  return {static_cast<uint32_t>(numbers[0]), numbers[1], numbers[2], numbers[3]};
}

}  // namespace

Sharing sharing_from(const std::vector<Object>& parts) {
  if (parts.size() != 6) throw TypeError("sharing is (add, policy, rule, loss_share, places, zeros)");
  Sharing sharing;
  sharing.asks = !parts[0].is_none();
  sharing.common.add = parts[0];
  sharing.policy = cells_from(parts[1].get());
  sharing.rule = cells_from(parts[2].get());
  sharing.loss_share = to_double(parts[3].get());
  sharing.places = vector_of(parts[4].get(), place_from);
  const std::vector<Object> zeros = items_of(parts[5].get());
  if (zeros.size() != 3) throw TypeError("the cells of zeros are (of, share, units)");
  sharing.zeros.of = vector_of(zeros[0].get(), to_index);
  sharing.zeros.share = vector_of(zeros[1].get(), to_double);
  sharing.zeros.units = vector_of(zeros[2].get(), to_index);
  return sharing;
}

void SharedSums::exchange(CommonNumbers& common, std::vector<ZeroCount>& zeros) {
  constexpr int kWritable = 0x200;  // PyBUF_WRITE, which the limited API of Python 3.10 does not name
  ZeroCount* const shared_zeros = layout_.zeros(values_.data());
  double* const shared_common = layout_.common(values_.data());
  std::copy(zeros.begin(), zeros.end(), shared_zeros);
  std::copy(common.begin(), common.end(), shared_common);
  const Py_ssize_t bytes = static_cast<Py_ssize_t>(values_.size() * sizeof(double));
  cells_.add(Object::take(PyMemoryView_FromMemory(reinterpret_cast<char*>(values_.data()), bytes, kWritable)));
  std::copy_n(shared_zeros, zeros.size(), zeros.begin());
  std::copy_n(shared_common, common.size(), common.begin());
}

}  // namespace torchclip
