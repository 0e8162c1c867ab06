// Part of every test program that sees libtorch in a build with sanitizers: libtorch itself is not
// instrumented, so what only its own libraries do is left out.

extern "C" {

const char* __asan_default_options();
const char* __lsan_default_suppressions();

// libtorch's libraries define some of each other's globals, and allocate in one what another frees.
const char* __asan_default_options() {
  return "detect_odr_violation=0:alloc_dealloc_mismatch=0:strict_string_checks=1:"
         "detect_stack_use_after_return=1";
}

// What libtorch and its thread pool keep until the process ends.
const char* __lsan_default_suppressions() {
  return "leak:libtorch_cpu.so\nleak:libc10.so\nleak:libgomp\n";
}

}  // extern "C"
