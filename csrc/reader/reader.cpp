#include "reader.h"

#include "../python_access.h"
#include "parameter_record.h"

namespace torchclip {
namespace {

const ReaderTable* used = nullptr;

}  // namespace

const ReaderTable& reader() { return *used; }

void use_reader(const ReaderTable* table) {
  if (table != nullptr && table->layout != layout_of_records())
    throw ValueError("the table of functions is that of another build: build torchclip anew");
  const ReaderTable* const wanted = table != nullptr ? table : &dlpack_reader();
  if (used != nullptr && used != wanted) throw ValueError("what reads tensors is chosen already, for good");
  used = wanted;
}

bool has_reader() { return used != nullptr; }

}  // namespace torchclip
