"""The comparison of methods: ``python -m benchmarks.methods``."""
