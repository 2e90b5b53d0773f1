// Run by test_block_codes.py: codes that AVX2 makes beside nearest_code() for each value. Prints what differs.
#include "cpu/block_codes.cpp"

#include <cstdio>
#include <vector>

namespace torchclip::cpu {
namespace {

constexpr uint32_t kStride = 251;  // of the bits of all float32

template <bool is_signed>
void compare(const std::vector<float>& values, float absmax) {
  std::vector<uint8_t> codes(values.size()), wanted(values.size());
  encode_eights<is_signed>(values.data(), absmax, static_cast<int64_t>(values.size()), codes.data());
  encode_each<is_signed>(values.data(), absmax, static_cast<int64_t>(values.size()), wanted.data());
  for (size_t i = 0; i < values.size(); ++i) {
    if (codes[i] == wanted[i]) continue;
    std::printf("%s: %a by %a is %d in place of %d\n", is_signed ? "signed" : "unsigned", values[i], absmax, codes[i],
                wanted[i]);
    return;
  }
}

template <bool is_signed>
void compare_all() {
  std::vector<float> strided, borders;
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += kStride) {
    const float value = bit_cast<float>(static_cast<uint32_t>(bits));
    if (std::fabs(value) <= 1.0f) strided.push_back(value);
  }
  strided.resize(strided.size() / 32 * 32);
  compare<is_signed>(strided, 1.0f);
  for (const float absmax : {1.0f, 0.7f, 3e-9f, 1e20f}) {
    borders.clear();
    for (const float middle : kMap<is_signed>.middles) {
      if (!(middle <= 1.0f)) continue;
      for (const float side : {-1.0f, 1.0f}) {
        float value = side * middle * absmax;
        for (int step = 0; step < 8; ++step) value = std::nextafter(value, -2 * absmax);
        for (int step = 0; step < 16; ++step, value = std::nextafter(value, 2 * absmax)) borders.push_back(value);
      }
    }
    compare<is_signed>(borders, absmax);
  }
}

}  // namespace
}  // namespace torchclip::cpu

int main() {
  torchclip::cpu::compare_all<true>();
  torchclip::cpu::compare_all<false>();
  std::puts("compared");
}
