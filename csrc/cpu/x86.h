// The instructions of x86-64 by name, where the compiler has them for functions that ask for more than it builds for:
// TORCHCLIP_X86 is defined then.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// The header's own _mm512_undefined is taken for a mistake at every use.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wignored-attributes"  // of __m256 as a template's argument, where nothing is lost
#include <immintrin.h>
#define TORCHCLIP_X86 1

namespace torchclip::cpu {

// Whether this processor has what the loops of clones.h, functor_avx2.cpp and functor_avx512.cpp are built for.
inline bool runs_avx2() {
  __builtin_cpu_init();
#if __GNUC__ >= 12
  return __builtin_cpu_supports("x86-64-v3");
#else
  return __builtin_cpu_supports("avx2");
#endif
}
inline bool runs_avx512() {
  __builtin_cpu_init();
#if __GNUC__ >= 12
  return __builtin_cpu_supports("x86-64-v4");
#else
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
#endif
}

}  // namespace torchclip::cpu
#endif
