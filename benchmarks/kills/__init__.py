"""Kills exports, trainings, tunings and benchmarks at random moments and looks at what is left."""
