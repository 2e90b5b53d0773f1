// Run by test_draw_paths.py: every way in which csrc/cpu/draws.cpp can draw, not the fastest of this machine
// alone. Prints which ways disagree with the scalar generator, then the bits of the normal numbers from the words 0, k,
// 2 k, ...
#include <cstdio>
#include <vector>

#include "cpu/draws.cpp"

namespace torchclip::cpu {
namespace {

constexpr uint64_t kSeed = 0x123456789abcdef0u;
constexpr uint32_t kStep = 257, kParameter = 65793;
constexpr int64_t kElements = 8 * kDrawGrain;

std::vector<uint32_t> scalar_words(int64_t element) {
  std::vector<uint32_t> words;
  for (int64_t i = element; i < element + kElements; i += 4) {
    // As it is documented, and not by draw_counter: past 2^32 counters the number goes on above the stream's byte.
    const uint64_t quad = static_cast<uint64_t>(i) / 4;
    const uint32_t low = static_cast<uint32_t>(quad), high = static_cast<uint32_t>(quad >> 32);
    const Counter drawn = philox4x32(kSeed, Counter{{kStep, kParameter, low, kGradientDropoutStream + (high << 8)}});
    words.insert(words.end(), drawn.word, drawn.word + 4);
  }
  return words;
}

void compare(const char* name, const std::vector<uint32_t>& words, int64_t element) {
  if (words != scalar_words(element))
    std::printf("%s differs at element %lld\n", name, static_cast<long long>(element));
}

void compare_paths() {
  const WordStream stream(kSeed, kStep, kParameter, kGradientDropoutStream);
  std::vector<uint32_t> words(kElements);
  // The last ones reach and pass what a 32-bit word of the counter holds.
  constexpr int64_t kPast = int64_t{1} << 34;
  for (const int64_t element :
       {int64_t{0}, 37 * kDrawGrain, kPast - kElements, kPast - 2 * kDrawGrain, kPast, 5 * kPast}) {
    stream.fill(element, kElements, words.data());
    compare("fill", words, element);
#if defined(TORCHCLIP_X86)
    if ((element + kElements - 1) >> 34 != 0) continue;
    const uint32_t first = static_cast<uint32_t>(element / 4);
    if (__builtin_cpu_supports("avx2")) {
      fill_quads_256(stream.constants(), first, kElements / 4, words.data());
      compare("fill_quads_256", words, element);
    }
    if (__builtin_cpu_supports("avx512f")) {
      fill_quads_512(stream.constants(), first, kElements / 4, words.data());
      compare("fill_quads_512", words, element);
    }
#endif
  }
}

}  // namespace
}  // namespace torchclip::cpu

int main() {
  using namespace torchclip::cpu;
  compare_paths();
  std::vector<uint32_t> words(kElements);
  for (size_t i = 0; i < words.size(); ++i) words[i] = static_cast<uint32_t>(i) * 0x9E3779B9u;
  std::vector<float> normals(kElements);
  fill_normals(words.data(), kElements, normals.data());
  for (const float normal : normals) std::printf("%08x\n", torchclip::bit_cast<uint32_t>(normal));
}
