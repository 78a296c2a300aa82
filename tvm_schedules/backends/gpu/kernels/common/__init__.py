"""What the kernels share: the epilogue."""
