// Run by test_code_vectors.py: codes and values of a vector, with the set of instructions whose header TORCHCLIP_SET
// names, beside those of each element. Prints what differs.
#include TORCHCLIP_SET
#include "cpu/code_vectors.h"

#include <cstdio>
#include <vector>

namespace torchclip::cpu::TORCHCLIP_VECTORS {
namespace {

constexpr uint32_t kStride = 251;  // of the bits of all float32
constexpr float kScales[] = {1.0f, 0.7f, 3e-9f, 1e-40f, 0x1p-120f, 1e20f, 8e37f};

template <bool is_signed>
bool encodes_alike(const std::vector<float>& values, float absmax) {
  const float inverse = inverse_of(scale_of(absmax));
  for (size_t begin = 0; begin < values.size(); begin += kCodesTogether) {
    float own[kCodesTogether];
    uint8_t codes[kCodesTogether];
    for (int i = 0; i < kCodesTogether; ++i) own[i] = values[begin + i] * absmax;
    encode_codes<is_signed>(own, inverse, codes);
    for (int i = 0; i < kCodesTogether; ++i) {
      const int wanted = encode<is_signed>(own[i], inverse);
      if (codes[i] == wanted) continue;
      std::printf("%a by %a is %d in place of %d\n", own[i], absmax, codes[i], wanted);
      return false;
    }
  }
  return true;
}

template <bool is_signed>
bool decodes_alike(float absmax) {
  const float scale = scale_of(absmax);
  for (int code = 0; code < 256; ++code) {
    uint8_t codes[kVector];
    float values[kVector];
    for (int i = 0; i < kVector; ++i) codes[i] = static_cast<uint8_t>(code + i);
    store_vector(values, decode_codes<is_signed>(codes, scale).lanes);
    for (int i = 0; i < kVector; ++i) {
      const float wanted = decode<is_signed>(codes[i], scale);
      if (bit_cast<uint32_t>(values[i]) == bit_cast<uint32_t>(wanted)) continue;
      std::printf("code %d of %a is %a in place of %a\n", codes[i], absmax, values[i], wanted);
      return false;
    }
  }
  return true;
}

bool finds_the_largest() {
  for (const float value : {-0.0f, 1.5f, -3.0f, bit_cast<float>(0xffc00000u)}) {
    for (int place = 0; place < kVector; ++place) {
      float values[kVector] = {1.0f, 0.5f, 0.0f, 0.25f, 1.0f, 0.0f, 0.0f, 0.5f};
      values[place] = value;
      float wanted = 0.0f;
      for (const float own : values)
        wanted = own == own && wanted == wanted ? larger(wanted, magnitude(own)) : 0 / 0.0f;
      const float came = largest_of(larger_bits(Words{}, FloatVector::of(load_vector<Lanes>(values))));
      if (came == wanted || (came != came && wanted != wanted)) continue;
      std::printf("%a at %d: the largest is %a in place of %a\n", value, place, came, wanted);
      return false;
    }
  }
  return true;
}

template <bool is_signed>
bool compare_all() {
  std::vector<float> values;
  for (uint64_t bits = 0; bits < uint64_t{1} << 32; bits += kStride) {
    const float value = bit_cast<float>(static_cast<uint32_t>(bits));
    if (std::fabs(value) <= 1.0f) values.push_back(value);
  }
  for (int step = 0; step < 256; ++step)  // and around the middle between two steps
    for (int offset = -8; offset <= 8; ++offset)
      for (const float sign : {1.0f, -1.0f}) {
        const float middle = decode<is_signed>(static_cast<uint8_t>(step), 1.0f) / 2 +
                             decode<is_signed>(static_cast<uint8_t>(step + 1), 1.0f) / 2;
        values.push_back(sign * bit_cast<float>(bit_cast<uint32_t>(magnitude(middle)) + static_cast<uint32_t>(offset)));
      }
  values.resize(values.size() / kCodesTogether * kCodesTogether);
  bool is_alike = finds_the_largest();
  for (const float absmax : kScales) is_alike = is_alike && encodes_alike<is_signed>(values, absmax);
  for (const float absmax : kScales) is_alike = is_alike && decodes_alike<is_signed>(absmax);
  return is_alike;
}

}  // namespace
}  // namespace torchclip::cpu::TORCHCLIP_VECTORS

int main() {
  if (torchclip::cpu::TORCHCLIP_VECTORS::compare_all<true>() && torchclip::cpu::TORCHCLIP_VECTORS::compare_all<false>())
    std::puts("compared");
}
