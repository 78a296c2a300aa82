"""Accuracy over time: what structure that was trained gains."""
