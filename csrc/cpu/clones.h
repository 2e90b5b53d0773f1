// What compilers are told of a loop. It is compiled for several instruction sets, of which the best one is chosen when
// the library is loaded.
#pragma once

#if defined(TORCHCLIP_CLONES)  // a test chooses one instruction set
#elif defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#if __GNUC__ >= 12
#define TORCHCLIP_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
// g++ 11 knows the levels by name in -march alone, and of a clone no more than one feature can be asked: the one with
// 256-bit vectors has no fused multiply-add, and rounds as the default does.
#define TORCHCLIP_CLONES __attribute__((target_clones("avx512f", "avx2", "default")))
#endif
#else
// clang makes no clones of function templates, which most of these are: its build is for the processor's baseline.
#define TORCHCLIP_CLONES
#endif

// Before a loop over operands, which are different tensors: no alias checks.
#if defined(__clang__)
#define TORCHCLIP_NO_ALIAS _Pragma("clang loop vectorize(assume_safety)")
#else
#define TORCHCLIP_NO_ALIAS _Pragma("GCC ivdep")
#endif
