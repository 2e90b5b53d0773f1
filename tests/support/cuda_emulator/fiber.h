// A stack and a place to go on from. Every fiber runs the same job, again and again; one thread of the host drives all.
#pragma once

#include <cstddef>

namespace emulator {

class Fiber {
 public:
  explicit Fiber(void (*job)());
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Runs until the fiber suspends itself, which it also does at the end of its job.
  void resume();
  static void suspend();

 private:
  [[noreturn]] static void run_jobs();

  void (*job_)();
  unsigned char* mapping_;      // a guard page, then the stack
  void* context_;               // where the fiber goes on from
  void* fake_stack_ = nullptr;  // AddressSanitizer's
};

}  // namespace emulator
