"""Networks as C, from training to a microcontroller."""
