// The loops of one functor over vectors of AVX-512. Compiled once for each functor: the build names it in
// TORCHCLIP_FUNCTOR.
#include "before_target.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// Everything below, of which nothing must be left to share with other files.
#pragma GCC optimize("fp-contract=off")  // see Product
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#include "avx512.h"
#include "vector_loops.h"
#endif
