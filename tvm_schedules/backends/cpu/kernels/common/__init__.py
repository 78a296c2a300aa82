"""What the kernels share: accumulators, epilogues, dot products, loops over rows, layers as kernels see them."""
