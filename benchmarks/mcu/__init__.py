"""What a network costs on a microcontroller, without the hardware: instructions counted by QEMU, flash, RAM, stack."""
