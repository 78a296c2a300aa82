"""CPUs: shared libraries made by TVM and LLVM."""
