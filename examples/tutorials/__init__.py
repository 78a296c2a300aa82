"""Tutorials: scripts of a few seconds, which the documentation site shows with their output."""
