// Where the fields of the structs of device_tables.h lie, by the names that kernels/tables.py has for them.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>

namespace torchclip {

// Offset and size in bytes of a field; offset 0 and the size of a struct for the names that end in _WORDS.
std::map<std::string, std::pair<int64_t, int64_t>> table_layout();

}  // namespace torchclip
