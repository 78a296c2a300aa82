"""What the kernels share: stored numbers, codes, epilogues and layouts as C."""
