// The instructions of x86-64 by name, where the compiler has them for functions that ask for more than it builds for:
// TORCHCLIP_X86 is defined then.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// The header's own _mm512_undefined is taken for a mistake at every use.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#define TORCHCLIP_X86 1
#endif
