// Stores past the cache, for memory that is written and not read: an ordinary store first fetches the line that it
// overwrites.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace torchclip::cpu {

// Copies a buffer that is in the cache to memory that need not be. stream_fence() must follow before another thread
// reads it.
inline void stream_out(const char* buffer, char* target, int64_t bytes) {
  int64_t done = 0;
#if defined(__SSE2__)
  if (reinterpret_cast<uintptr_t>(target) % sizeof(__m128i) == 0)
    for (; done + static_cast<int64_t>(sizeof(__m128i)) <= bytes; done += sizeof(__m128i))
      _mm_stream_si128(reinterpret_cast<__m128i*>(target + done),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(buffer + done)));
#endif
  std::memcpy(target + done, buffer + done, static_cast<size_t>(bytes - done));
}

inline void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

}  // namespace torchclip::cpu
