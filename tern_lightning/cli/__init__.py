"""Command lines of the training side."""
