#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {
namespace {

constexpr size_t kPage = 65536;  // a multiple of every system's page
constexpr size_t kStack = 4 * kPage;

Fiber* running = nullptr;
void* host_context = nullptr;

// AddressSanitizer must know which stack is in use.
#if defined(__SANITIZE_ADDRESS__)
void* host_fake_stack = nullptr;
const void* host_stack = nullptr;
size_t host_stack_size = 0;

void leave(void** fake_stack, const void* stack, size_t size) {
  __sanitizer_start_switch_fiber(fake_stack, stack, size);
}
void enter_host() { __sanitizer_finish_switch_fiber(host_fake_stack, nullptr, nullptr); }
void enter_fiber(void* fake_stack) { __sanitizer_finish_switch_fiber(fake_stack, &host_stack, &host_stack_size); }
void forget(const void* stack, size_t size) { __asan_unpoison_memory_region(stack, size); }
#else
void* host_fake_stack = nullptr;
constexpr const void* host_stack = nullptr;
constexpr size_t host_stack_size = 0;

void leave(void**, const void*, size_t) {}
void enter_host() {}
void enter_fiber(void*) {}
void forget(const void*, size_t) {}
#endif

}  // namespace
}  // namespace emulator

// switch_context(save, go_on): stores the present context in *save and goes on from the other one. A context is the
// stack pointer under the registers that a called function keeps; swapcontext would make a system call each time.
#if defined(__x86_64__)
extern "C" void emulator_switch_context(void** save, void* go_on) __attribute__((visibility("hidden")));
asm(R"(
  .pushsection .text
  .globl emulator_switch_context
  .hidden emulator_switch_context
  .type emulator_switch_context, @function
emulator_switch_context:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size emulator_switch_context, . - emulator_switch_context
  .popsection
)");

namespace emulator {
namespace {

void switch_context(void** save, void* go_on) { emulator_switch_context(save, go_on); }

void* first_context(unsigned char* stack, void (*entry)()) {
  void** const top = reinterpret_cast<void**>(stack + kStack);
  top[-1] = nullptr;  // the entry's own return address: where a debugger's backtrace ends
  top[-2] = reinterpret_cast<void*>(entry);
  for (int place = 3; place <= 8; ++place) top[-place] = nullptr;
  return top - 8;
}

void free_context(void*) {}

}  // namespace
}  // namespace emulator
#else
namespace emulator {
namespace {

void switch_context(void** save, void* go_on) {
  static ucontext_t host;
  if (*save == nullptr) *save = &host;
  swapcontext(static_cast<ucontext_t*>(*save), static_cast<ucontext_t*>(go_on));
}

void* first_context(unsigned char* stack, void (*entry)()) {
  auto* const context = new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = kStack;
  makecontext(context, entry, 0);
  return context;
}

void free_context(void* context) { delete static_cast<ucontext_t*>(context); }

}  // namespace
}  // namespace emulator
#endif

namespace emulator {

Fiber::Fiber(void (*job)()) : job_(job) {
  void* const mapping =
      mmap(nullptr, kPage + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) throw std::bad_alloc();
  mprotect(mapping, kPage, PROT_NONE);
  mapping_ = static_cast<unsigned char*>(mapping);
  context_ = first_context(mapping_ + kPage, run_jobs);
}

Fiber::~Fiber() {
  forget(mapping_ + kPage, kStack);  // of frames that never returned
  munmap(mapping_, kPage + kStack);
  free_context(context_);
}

void Fiber::resume() {
  running = this;
  leave(&host_fake_stack, mapping_ + kPage, kStack);
  switch_context(&host_context, context_);
  enter_host();
}

void Fiber::suspend() {
  Fiber* const self = running;
  leave(&self->fake_stack_, host_stack, host_stack_size);
  switch_context(&self->context_, host_context);
  enter_fiber(self->fake_stack_);
}

void Fiber::run_jobs() {
  enter_fiber(nullptr);
  for (;;) {
    running->job_();
    suspend();
  }
}

}  // namespace emulator
