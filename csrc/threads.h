// How many threads a call from Python may use.
#pragma once

namespace torchclip {

// Asks torch, whose answer cpu::thread_count() gives in this thread until the next call, without the GIL too.
void remember_thread_count();

}  // namespace torchclip
