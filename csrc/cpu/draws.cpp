// The generator of philox.h and the normal numbers of normal.h, many at a time. Ten rounds of two widening products are
// most of what a mask costs, and compilers do not find the instruction for them, so it is named here.
#include "draws.h"

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off")  // see normal.h
#endif

#include "../normal.h"
#include "clones.h"
#include "x86.h"

namespace torchclip::cpu {
namespace {

constexpr int64_t kQuadGrain = kDrawGrain / 4;

using FillQuads = void (*)(const WordStream::Constants& constants, uint32_t first, int64_t quads, uint32_t* words);

#if defined(TORCHCLIP_X86)

// One counter in each 64-bit lane. The upper half of a lane may hold anything: the product reads the lower half alone.
__attribute__((target("avx512f"))) void fill_quads_512(const WordStream::Constants& constants, uint32_t first,
                                                       int64_t quads, uint32_t* words) {
  constexpr int kVectors = 4, kLanes = 8;  // four chains of products run side by side
  static_assert(kQuadGrain % (kVectors * kLanes) == 0);
  constexpr int kXor = 0x96;  // of three operands
  const auto& [round0, round1, key0, key1] = constants;
  const __m512i multiplier0 = _mm512_set1_epi64(kPhiloxMultiplier0);
  const __m512i multiplier1 = _mm512_set1_epi64(kPhiloxMultiplier1);
  const __m512i front = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0), back = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
  __m512i running = _mm512_add_epi64(_mm512_set1_epi64(first), _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0));
  for (int64_t quad = 0; quad < quads; quad += kVectors * kLanes) {
    __m512i c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const __m512i product1 = _mm512_mul_epu32(multiplier1, running);
      running = _mm512_add_epi64(running, _mm512_set1_epi64(kLanes));
      const __m512i mixed = _mm512_xor_si512(_mm512_srli_epi64(product1, 32), _mm512_load_si512(round0.lane));
      c3[v] = _mm512_mul_epu32(multiplier0, mixed);
      c0[v] = _mm512_xor_si512(product1, _mm512_load_si512(round1[0].lane));
      c1[v] = _mm512_load_si512(round1[1].lane);
      c2[v] = _mm512_xor_si512(_mm512_srli_epi64(c3[v], 32), _mm512_load_si512(round1[2].lane));
    }
#pragma GCC unroll 8
    for (int round = 2; round < kPhiloxRounds; ++round) {
      const __m512i k0 = _mm512_load_si512(key0[round].lane), k1 = _mm512_load_si512(key1[round].lane);
      for (int v = 0; v < kVectors; ++v) {
        const __m512i product0 = _mm512_mul_epu32(multiplier0, c0[v]), product1 = _mm512_mul_epu32(multiplier1, c2[v]);
        c0[v] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(product1, 32), c1[v], k0, kXor);
        c2[v] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(product0, 32), c3[v], k1, kXor);
        c1[v] = product1;
        c3[v] = product0;
      }
    }
    for (int v = 0; v < kVectors; ++v, words += 4 * kLanes) {
      constexpr __mmask16 kOddWords = 0xaaaa;
      const __m512i low = _mm512_mask_shuffle_epi32(c0[v], kOddWords, c1[v], _MM_PERM_CCAA);
      const __m512i high = _mm512_mask_shuffle_epi32(c2[v], kOddWords, c3[v], _MM_PERM_CCAA);
      _mm512_storeu_si512(words, _mm512_permutex2var_epi64(low, front, high));
      _mm512_storeu_si512(words + 2 * kLanes, _mm512_permutex2var_epi64(low, back, high));
    }
  }
}

__attribute__((target("avx2"))) void fill_quads_256(const WordStream::Constants& constants, uint32_t first,
                                                    int64_t quads, uint32_t* words) {
  constexpr int kVectors = 2, kLanes = 4;
  static_assert(kQuadGrain % (kVectors * kLanes) == 0);
  const auto at = [](const WordStream::Lanes& lanes) { return reinterpret_cast<const __m256i*>(lanes.lane); };
  const auto& [round0, round1, key0, key1] = constants;
  const __m256i multiplier0 = _mm256_set1_epi64x(kPhiloxMultiplier0);
  const __m256i multiplier1 = _mm256_set1_epi64x(kPhiloxMultiplier1);
  __m256i running = _mm256_add_epi64(_mm256_set1_epi64x(first), _mm256_set_epi64x(3, 2, 1, 0));
  for (int64_t quad = 0; quad < quads; quad += kVectors * kLanes) {
    __m256i c0[kVectors], c1[kVectors], c2[kVectors], c3[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const __m256i product1 = _mm256_mul_epu32(multiplier1, running);
      running = _mm256_add_epi64(running, _mm256_set1_epi64x(kLanes));
      const __m256i mixed = _mm256_xor_si256(_mm256_srli_epi64(product1, 32), _mm256_load_si256(at(round0)));
      c3[v] = _mm256_mul_epu32(multiplier0, mixed);
      c0[v] = _mm256_xor_si256(product1, _mm256_load_si256(at(round1[0])));
      c1[v] = _mm256_load_si256(at(round1[1]));
      c2[v] = _mm256_xor_si256(_mm256_srli_epi64(c3[v], 32), _mm256_load_si256(at(round1[2])));
    }
#pragma GCC unroll 8
    for (int round = 2; round < kPhiloxRounds; ++round) {
      const __m256i k0 = _mm256_load_si256(at(key0[round])), k1 = _mm256_load_si256(at(key1[round]));
      for (int v = 0; v < kVectors; ++v) {
        const __m256i product0 = _mm256_mul_epu32(multiplier0, c0[v]), product1 = _mm256_mul_epu32(multiplier1, c2[v]);
        c0[v] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product1, 32), c1[v]), k0);
        c2[v] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(product0, 32), c3[v]), k1);
        c1[v] = product1;
        c3[v] = product0;
      }
    }
    for (int v = 0; v < kVectors; ++v, words += 4 * kLanes) {
      constexpr int kOddWords = 0xaa;
      const __m256i low = _mm256_blend_epi32(c0[v], _mm256_slli_epi64(c1[v], 32), kOddWords);
      const __m256i high = _mm256_blend_epi32(c2[v], _mm256_slli_epi64(c3[v], 32), kOddWords);
      const __m256i even = _mm256_unpacklo_epi64(low, high), odd = _mm256_unpackhi_epi64(low, high);
      __m256i* const out = reinterpret_cast<__m256i*>(words);
      _mm256_storeu_si256(out, _mm256_permute2x128_si256(even, odd, 0x20));
      _mm256_storeu_si256(out + 1, _mm256_permute2x128_si256(even, odd, 0x31));
    }
  }
}

#endif

// Null where only the scalar text can run.
FillQuads fastest() {
#if defined(TORCHCLIP_X86)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return fill_quads_512;
  if (__builtin_cpu_supports("avx2")) return fill_quads_256;
#endif
  return nullptr;
}

WordStream::Lanes everywhere(uint64_t value) { return {{value, value, value, value, value, value, value, value}}; }

}  // namespace

WordStream::WordStream(uint64_t seed, uint32_t step, uint32_t parameter, Stream stream)
    : seed_(seed), step_(step), parameter_(parameter), stream_(stream) {
  uint32_t key0[kPhiloxRounds], key1[kPhiloxRounds];
  for (int round = 0; round < kPhiloxRounds; ++round) {
    key0[round] = static_cast<uint32_t>(seed) + static_cast<uint32_t>(round) * kPhiloxWeyl0;
    key1[round] = static_cast<uint32_t>(seed >> 32) + static_cast<uint32_t>(round) * kPhiloxWeyl1;
    constants_.key0[round] = everywhere(key0[round]);
    constants_.key1[round] = everywhere(key1[round]);
  }
  const Counter counter = draw_counter(step, parameter, 0, stream);
  const uint64_t product0 = static_cast<uint64_t>(kPhiloxMultiplier0) * counter.word[0];
  const uint32_t third = static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1[0];
  const uint64_t product1 = static_cast<uint64_t>(kPhiloxMultiplier1) * third;
  constants_.first = everywhere(counter.word[1] ^ key0[0]);
  constants_.second[0] = everywhere((product1 >> 32) ^ key0[1]);
  constants_.second[1] = everywhere(product1);
  constants_.second[2] = everywhere(static_cast<uint32_t>(product0) ^ key1[1]);
}

void WordStream::fill(int64_t element, int64_t count, uint32_t* words) const {
  static const FillQuads vectorised = fastest();
  const uint64_t first = static_cast<uint64_t>(element) / 4;
  const int64_t quads = count / 4;
  const uint64_t end = first + static_cast<uint64_t>(quads);
  if (vectorised != nullptr && end >> 32 == 0)  // one word of the counter runs there
    return vectorised(constants_, static_cast<uint32_t>(first), quads, words);
  for (int64_t quad = 0; quad < quads; ++quad, words += 4) {
    const Counter counter = draw_counter(step_, parameter_, first + static_cast<uint64_t>(quad), stream_);
    const Counter drawn = philox4x32(seed_, counter);
    memcpy(words, drawn.word, sizeof(drawn.word));
  }
}

// Pairs are taken apart, drawn and put together in three loops: in one they would keep it from being vectorised.
TORCHCLIP_CLONES void fill_normals(const uint32_t* words, int64_t count, float* normals) {
  constexpr int64_t kPairs = kDrawGrain / 2;
  alignas(64) float x[kPairs], y[kPairs];
  alignas(64) uint32_t first[kPairs], second[kPairs];
  for (int64_t begin = 0; begin < count; begin += kDrawGrain) {
    for (int64_t i = 0; i < kPairs; ++i) {
      first[i] = words[begin + 2 * i];
      second[i] = words[begin + 2 * i + 1];
    }
    for (int64_t i = 0; i < kPairs; ++i) {
      const float r = normal_radius(first[i]);
      float u, v;
      unit_vector(second[i], u, v);
      x[i] = rounded_product(r, u);
      y[i] = rounded_product(r, v);
    }
    for (int64_t i = 0; i < kPairs; ++i) {
      normals[begin + 2 * i] = x[i];
      normals[begin + 2 * i + 1] = y[i];
    }
  }
}

}  // namespace torchclip::cpu
