"""Presets: published trainings by name."""
