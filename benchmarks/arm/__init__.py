"""What a network costs on 64-bit ARM, without the hardware: instructions counted by QEMU, cycles estimated by LLVM."""
