// The loops of one functor over vectors of AVX2. Compiled once for each functor: the build names it in
// TORCHCLIP_FUNCTOR.
#include "before_target.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
// Everything below, of which nothing must be left to share with other files.
#pragma GCC optimize("fp-contract=off")  // see Product
#if __GNUC__ >= 12
#pragma GCC target("avx2,fma")
#else  // without fused multiply-add: see clones.h
#pragma GCC target("avx2")
#endif
#include "avx2.h"
#include "vector_loops.h"
#endif
