"""Translations of kernels into C."""
