"""What networks take before anything is compiled: time, memory and bytes, for several targets at once."""
