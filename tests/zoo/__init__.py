"""Architectures that were not written for this package, with random ternary weights: do they export and run right?"""
