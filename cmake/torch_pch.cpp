// Carries the precompiled header that all targets of cmake/LaceTorch.cmake reuse.
